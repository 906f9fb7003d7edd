"""timm's blocks and stacks with connections in place of their additions."""
