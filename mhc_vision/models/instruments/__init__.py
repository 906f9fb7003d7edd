"""What measures a model: gains of its residual maps, parameters and multiply-accumulates."""
