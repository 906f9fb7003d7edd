"""How a comparison runs: directory, processes, progress."""
