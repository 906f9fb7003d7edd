"""What an analysis measures of a model's connections, one measure per file."""
