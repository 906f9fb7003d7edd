"""How much of a difference between streams survives to the read-out, along the depth."""

from typing import Any

from mhc_vision.analysis.figures.depth_axis import set_depth_axis
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import FAINT, line_look, new_figure
from mhc_vision.report.line_names import name_lines

_NAMES = {"now": "this model", "start": "at the start"}


def draw_memory(memory: dict[str, list[float]]) -> Any:
    """What each branch's streams still tell apart at the read-out, beside the same of the maps at their start.

    Args:
        memory: of `memory_profile`.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    lines = [
        axes.plot(memory[key], label=name, **line_look(index))[0] for index, (key, name) in enumerate(_NAMES.items())
    ]
    axes.axhline(1.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("part of a difference that survives")
    set_depth_axis(axes)
    name_lines(axes, lines)
    return figure


MEMORY = Section(
    "memory",
    "Memory",
    "How much of a difference between the streams before each branch is left at the read-out: the largest singular "
    "value of the product of mean res from there on, with the mean of the streams taken out. A doubly stochastic "
    "product keeps that mean and lets the rest fade. 1 means that nothing fades, as with res = I.",
    draw=lambda record: draw_memory(record["memory"]) if record["memory"] else None,
    otherwise="One stream: there is no difference that could fade.",
)
