"""Norms of the streams, the cosine between them and their effective rank."""

from typing import Any

from mhc_vision.analysis.figures.depth_axis import draw_band, set_cosine_scale, set_depth_axis
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import COLOURS, FAINT, line_look, new_figure

_PLACE_LABEL = "before branch (last point: read-out)"


def draw_streams(streams: dict[str, Any]) -> Any:
    """The norm of each stream, and for more than one stream its collapse: cosine and effective rank.

    Args:
        streams: of `StreamStatistics.result`.

    Returns:
        A matplotlib figure.
    """
    norms = streams["norm"]
    n, places = len(norms[0]), list(range(len(norms)))
    panels = [("cosine", "mean cosine between streams"), ("effective_rank", "effective rank of the streams")]
    panels = panels if n > 1 else []
    figure = new_figure(4.2 + 3.4 * len(panels), 3.6)
    first, *others = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    for stream in range(n):
        first.plot(places, [row[stream] for row in norms], label=f"stream {stream}", **line_look(stream))
    first.set_ylabel("L2 norm, mean over tokens")
    first.set_ylim(bottom=0)
    set_depth_axis(first, _PLACE_LABEL)
    first.legend(frameon=False, fontsize=8)
    for axes, (key, label), colour in zip(others, panels, COLOURS, strict=False):
        draw_band(axes, places, streams[key], colour)
        axes.set_ylabel(label)
        set_depth_axis(axes, _PLACE_LABEL)
        axes.legend(frameon=False, fontsize=8)
    if others:
        others[1].set_ylim(0.9, n + 0.1)
        set_cosine_scale(others[0], streams["cosine"])
        others[0].axhline(1.0, color=FAINT, linewidth=0.8, zorder=0)
    return figure


STREAMS = Section(
    "streams",
    "Streams",
    "Streams before each branch and before the read-out. Cosine 1 and effective rank 1 (Roy and Vetterli, 2007) mean "
    "that the streams have collapsed to copies; they start as copies of the embedding.",
    draw=lambda record: draw_streams(record["streams"]),
)
