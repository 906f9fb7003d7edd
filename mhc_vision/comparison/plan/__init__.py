"""What a comparison runs: its matrix and settings."""
