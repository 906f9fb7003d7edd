"""Cosine similarity of adjacent branch inputs, as in Fig. 3 of HC (arXiv 2409.19606)."""

from typing import Any

from mhc_vision.analysis.figures.depth_axis import draw_band, set_cosine_scale, set_depth_axis
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import COLOURS, new_figure


def draw_similarity(similarity: list[dict[str, float]]) -> Any:
    """Median and 5-95 % band over tokens.

    Args:
        similarity: of `BranchSimilarity.result`.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    draw_band(axes, [int(entry["branch"]) for entry in similarity], similarity, COLOURS[0])
    axes.set_ylabel("cosine with the input of the branch before")
    set_cosine_scale(axes, similarity)
    set_depth_axis(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


SIMILARITY = Section(
    "similarity",
    "Inputs of adjacent branches",
    "Cosine between the inputs of adjacent branches, before any norm (HC, Fig. 3). Near 1, a branch changes little of "
    "what the next one reads.",
    draw=lambda record: draw_similarity(record["similarity"]),
)
