"""The commands of `mhc-vision`, one module each, with a `run(words)` that takes the words after its name."""
