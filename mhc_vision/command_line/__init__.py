"""What commands do with their words before PyTorch is imported: look up names and files, find mistakes, say so."""
