"""The unfolded connection matrix, as in Fig. 7 of HC (arXiv 2409.19606)."""

from typing import Any

import numpy as np

from mhc_vision.analysis.figures.map_figure import change_scale
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import RULE, new_figure


def draw_matrix(connection_matrix: dict[str, Any]) -> Any:
    """The mean matrix over tokens as a heat map; what lies above the diagonal cannot be read and is left grey.

    Args:
        connection_matrix: of `ConnectionMatrix.result`.

    Returns:
        A matplotlib figure.
    """
    matrix = np.array(connection_matrix["matrix"])
    last = len(matrix) - 1
    readable = np.where(np.tri(last + 1, dtype=bool), matrix, np.nan)
    side = min(9.0, 4.0 + 0.09 * last)
    figure = new_figure(side + 0.9, side)
    axes = figure.subplots()
    axes.set_facecolor(RULE)
    image = axes.imshow(readable, **change_scale(readable, centre=1.0))
    step = max(1, (last + 11) // 12)
    sources = list(range(0, last, step))
    axes.set_xticks([0, *(source + 1 for source in sources)], ["emb.", *map(str, sources)], fontsize=8)
    axes.set_yticks([*sources, last], [*map(str, sources), "output"], fontsize=8)
    axes.set_xlabel("output of branch (emb.: input embedding)")
    axes.set_ylabel("input of branch (output: read-out)")
    for pair in connection_matrix["measures"]["parallel_pairs"]:
        _, reader = pair["branches"]
        # the entry that makes a pair parallel: the second branch does not read the first
        axes.plot(reader, reader, "x", color="#D55E00", markersize=5)
    figure.colorbar(image, ax=axes, label="weight, mean over tokens (plain residual: 1)", shrink=0.85)
    return figure


MATRIX = Section(
    "connection_matrix",
    "Unfolded connections",
    "How much each branch reads of every earlier output, unfolded from the maps of each token and averaged over tokens "
    "(HC, arXiv 2409.19606, Eq. 27). A plain residual network has ones on and below the diagonal, which are "
    "white. A cross marks a branch that hardly reads the one before it, so that the two are parallel. Weights say "
    "nothing of the size of what they weigh.",
    draw=lambda record: draw_matrix(record["connection_matrix"]),
)
