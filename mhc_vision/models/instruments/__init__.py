"""What observes a model: maps and streams of its connections, gains, multiply-accumulates."""
