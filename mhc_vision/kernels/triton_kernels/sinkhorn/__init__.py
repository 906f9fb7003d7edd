"""Sinkhorn-Knopp and the exact gradient of its iterations."""
