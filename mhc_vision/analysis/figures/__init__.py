"""The figures of an analysis, one module each, with a function from measures to a matplotlib figure."""
