"""Mean maps as heat maps."""

import math
from typing import Any

import numpy as np

from mhc_vision.analysis.figures.depth_axis import BRANCH_LABEL
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import DIVERGING, new_figure
from mhc_vision.report.travel import UNMOVED

_COLUMNS = 8


def draw_maps(maps: dict[str, dict[str, Any]], start: dict[str, Any]) -> Any:
    """The mean `res` of every branch as a grid of n x n heat maps, and the mean `pre` and `post` of all branches below.

    Colours are changes since the start, numbers are weights.

    Args:
        maps: of `MeanMaps.result`.
        start: `start` of `MapTravel.result`.

    Returns:
        A matplotlib figure.
    """
    res = np.array(maps["res"]["mean"])
    num_branches, n, _ = res.shape
    columns = min(_COLUMNS, num_branches)
    rows = math.ceil(num_branches / columns)
    figure = new_figure(11.0, 1.55 * rows + 0.5 + 2 * (0.75 + 0.22 * n))
    top, *others = figure.subfigures(3, 1, height_ratios=[1.55 * rows + 0.5, 0.75 + 0.22 * n, 0.75 + 0.22 * n])
    panels = top.subplots(rows, columns, squeeze=False)
    changes = res - np.array(start["res"])
    scale = change_scale(changes)
    for axes in panels.flat:
        axes.set_axis_off()
    for branch, axes in zip(range(num_branches), panels.flat, strict=False):
        axes.set_axis_on()
        image = axes.imshow(changes[branch], **scale)
        axes.set_title(f"branch {branch}", fontsize=8)
        axes.set_xticks(range(n))
        axes.set_yticks(range(n))
        axes.tick_params(labelsize=6, length=2)
        if n <= 4:
            _write_numbers(axes, res[branch], changes[branch], image, fontsize=5.5)
    top.supxlabel("from stream", fontsize=9)
    top.supylabel("to stream", fontsize=9)
    top.suptitle("Mean res over tokens: numbers are weights, colours their change since the start", fontsize=10)
    top.colorbar(image, ax=panels, label="change of the weight (no unit)", shrink=0.9)
    for part, field, verb in zip(others, ("pre", "post"), ("reads", "writes"), strict=True):
        values = np.array(maps[field]["mean"]).T
        axes = part.subplots()
        change = values - np.array(start[field]).T
        image = axes.imshow(change, aspect="auto", **change_scale(change))
        if num_branches <= 24 and n <= 4:
            _write_numbers(axes, values, change, image, fontsize=6)
        axes.set_yticks(range(n))
        axes.set_ylabel("stream")
        axes.set_xlabel(BRANCH_LABEL)
        axes.set_title(f"Mean {field} over tokens: what a branch {verb}", fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        part.colorbar(image, ax=axes, label="change (no unit)", pad=0.01)
    return figure


def change_scale(changes: Any, centre: float = 0.0) -> dict[str, Any]:
    """Colours for `imshow`, as far on both sides of `centre`: at least `UNMOVED`, lest rounding look like a change."""
    largest = max(UNMOVED, float(np.nanmax(np.abs(changes - centre))))
    return {"cmap": DIVERGING, "vmin": centre - largest, "vmax": centre + largest}


def _write_numbers(axes: Any, values: Any, changes: Any, image: Any, fontsize: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = image.cmap(image.norm(changes[row, column]))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            column,
            row,
            f"{round(value, 2) + 0.0:.2f}",  # no minus sign in front of zero
            ha="center",
            va="center",
            fontsize=fontsize,
            color="black" if light else "white",
        )


MAPS = Section(
    "maps",
    "Maps",
    "Mean maps over images and tokens: numbers are weights, colours how much they have changed since the start, on a "
    f"scale of at least ±{UNMOVED}. Row i of res says what stream i becomes.",
    draw=lambda record: draw_maps(record["maps"], record["travel"]["start"]) if record["travel"] else None,
    otherwise="A plain residual connection: one stream, and all maps are 1.",
)
