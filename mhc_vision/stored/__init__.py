"""What files say of models, looked through before anything is built of it: checkpoints, config.json, weights."""
