"""How far the maps of each branch have come from their start."""

from typing import Any

from mhc_vision.analysis.figures.depth_axis import set_depth_axis
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import INK, line_look, new_figure
from mhc_vision.report.line_names import name_lines
from mhc_vision.report.travel import UNMOVED


def draw_travel(travel: dict[str, Any]) -> Any:
    """Mean absolute change of `pre`, `post` and `res` along the depth, and the threshold.

    Args:
        travel: of `MapTravel.result`.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    lines = [
        axes.plot(travel[field], label=field, **line_look(index))[0]
        for index, field in enumerate(("pre", "post", "res"))
    ]
    axes.axhline(UNMOVED, color=INK, linewidth=1.0, linestyle="--")
    axes.set_ylim(0, max(2 * UNMOVED, 1.08 * max(max(travel[field]) for field in ("pre", "post", "res"))))
    axes.set_ylabel("mean absolute change since the start")
    set_depth_axis(axes)
    name_lines(axes, lines)
    return figure


TRAVEL = Section(
    "travel",
    "Distance from the plain start",
    "How far the entries of each branch's maps are from those of an untrained model, where the network computes what a "
    f"plain one does: mean absolute change over tokens and entries. Below the dashed line ({UNMOVED}) a connection has "
    "hardly moved.",
    draw=lambda record: draw_travel(record["travel"]) if record["travel"] else None,
    otherwise="A plain residual connection: there is nothing that could have moved.",
)
