"""Amax gains along the depth, as in Fig. 3 and 7 of mHC (arXiv 2512.24880)."""

import math
from typing import Any

from mhc_vision.analysis.figures.depth_axis import set_depth_axis
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import FAINT, line_look, new_figure

_SMALLEST = 1e-9


def draw_gains(gains: dict[str, list[float]]) -> Any:
    """Three panels: the gains of each branch, those of the products to the last branch, and the column errors.

    Args:
        gains: of `GainProfile.result`.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(11.0, 3.6)
    single, composite, errors = figure.subplots(1, 3)
    for axes, prefix, title in (
        (single, "", "Each branch"),
        (composite, "composite_", "Product from a branch to the last one"),
    ):
        for index, direction in enumerate(("forward", "backward")):
            axes.plot(
                gains[prefix + direction],
                label=f"{direction} ({_SUMS[direction]})",
                **(line_look(index) | _RINGS[index]),
            )
        axes.axhline(1.0, color=FAINT, linewidth=0.8, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel("Amax gain of res (factor)")
        _scale(axes, [*gains[f"{prefix}forward"], *gains[f"{prefix}backward"]])
        set_depth_axis(axes)
        axes.legend(frameon=False, fontsize=8)
    for index, (name, label) in enumerate((("column_error", "each branch"), ("composite_column_error", "product"))):
        # a column sum that is not positive has no logarithm: its point is missing
        values = [max(value, _SMALLEST) if math.isfinite(value) else math.nan for value in gains[name]]
        errors.plot(values, label=label, **line_look(index + 2))
    errors.set_yscale("log")
    errors.set_title(f"Columns of res (drawn from {_SMALLEST:g})", fontsize=10)
    errors.set_ylabel("max over tokens of |log column sum|")
    set_depth_axis(errors)
    errors.legend(frameon=False, fontsize=8)
    return figure


# rings around the other line's markers, as the two lines often coincide
_RINGS: tuple[dict[str, Any], ...] = ({"markersize": 7, "fillstyle": "none"}, {})
_SUMS = {"forward": "largest row sum", "backward": "largest column sum"}


def _scale(axes: Any, values: list[float]) -> None:
    """A logarithmic axis for gains far from 1, else a linear one that does not blow rounding up to a landscape."""
    if max(values) > 10 * min(values) > 0:
        axes.set_yscale("log")
        return
    margin = max(0.05, 1.15 * max(abs(value - 1) for value in values))
    axes.set_ylim(max(0.0, 1 - margin), 1 + margin)
    axes.ticklabel_format(axis="y", useOffset=False)


GAINS = Section(
    "gains",
    "Gains",
    "Amax gain of res: largest absolute row sum (forward) and column sum (backward), averaged over tokens (mHC, arXiv "
    "2512.24880, Sec. 3.1); and the largest |log column sum|, which also sees columns that attenuate. A plain residual "
    "has gain 1 and column error 0.",
    draw=lambda record: draw_gains(record["gains"]),
)
