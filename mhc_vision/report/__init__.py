"""What reports are made of: blocks, tables, figures, curves."""
