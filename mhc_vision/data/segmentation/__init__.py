"""Images with a mask that gives each pixel a class."""
