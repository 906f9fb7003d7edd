"""What is done with a trained model: loading, evaluation, prediction, export."""
