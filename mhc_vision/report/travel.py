"""When maps of connections count as moved: one threshold for the reports of runs, comparisons and analyses."""

UNMOVED = 0.01
"""Mean absolute change of the maps' entries below which a connection still is a plain residual."""
