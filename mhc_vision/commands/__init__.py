"""The commands of `mhc-vision`, one module each, with a `run(words)` that takes what stands behind its name."""
