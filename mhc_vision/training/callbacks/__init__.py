"""What a run does beside training: checkpoints on signals, averages, measurements, records."""
