"""Forest plot of a task: the difference of each arm to the baseline with its interval, and the verdict in words."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mhc_vision.comparison.report.verdicts import Verdict
from mhc_vision.report.figures import COLOURS, FAINT, INK, PAPER, figure_style, new_figure, plain_text, save_figure

_ROW_HEIGHT = 0.55


def plot_forest(verdicts: Sequence[Verdict], baseline: str, destination: str | os.PathLike[str]) -> list[Path]:
    """Draws one row for each arm: the mean difference, the interval that Holm decides by, and each seed.

    A filled mark is told apart from the baseline, a hollow one is not.

    Args:
        verdicts: Of one task, at least one.
        baseline: Name of the arm at 0.
        destination: Path without extension; `.png` and `.svg` are written.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
    """
    with figure_style():
        figure = new_figure(6.4, 0.9 + _ROW_HEIGHT * len(verdicts))
        axes = figure.add_subplot()
        axes.axvline(0.0, color=INK, linewidth=1.0)
        for row, verdict in enumerate(verdicts):
            _draw_row(axes, -row, verdict)
        _set_limits(axes, verdicts)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        name = verdicts[0].metric.name
        axes.set_xlabel(plain_text(f"{name}, difference to {baseline} (percentage points)"))
        return save_figure(figure, destination)


def _draw_row(axes: Any, place: float, verdict: Verdict) -> None:
    # in the margin's coordinates: the words begin at the left edge, whatever the scale
    # and the line at 0 does not cross them
    words = {"va": "bottom", "fontsize": 9, "zorder": 5, "bbox": {"facecolor": PAPER, "linewidth": 0, "pad": 1.0}}
    edge = axes.get_yaxis_transform()
    name = axes.text(0.0, place + 0.2, plain_text(verdict.arm), fontweight="bold", transform=edge, **words)
    axes.annotate(
        verdict.words,
        (1.0, 0.0),
        xycoords=name,
        xytext=(6, 0),
        textcoords="offset points",
        **words,
    )
    seeds = [value for value in verdict.differences if math.isfinite(value)]
    axes.plot(seeds, [place - 0.12] * len(seeds), "|", color=FAINT, markersize=6, zorder=2)
    if not math.isfinite(verdict.mean):
        return
    decision = verdict.decision
    if decision is not None:
        axes.plot(decision.interval, [place] * 2, color=COLOURS[0], linewidth=2.2, solid_capstyle="butt", zorder=3)
    filled = decision is not None and decision.is_different
    axes.plot(
        verdict.mean,
        place,
        "o",
        color=COLOURS[0],
        markerfacecolor=COLOURS[0] if filled else PAPER,
        markersize=7,
        zorder=4,
    )


def _set_limits(axes: Any, verdicts: Sequence[Verdict]) -> None:
    """All that is drawn and 0, with a margin; at least half a point to each side, lest rounding look like a result."""
    shown = [0.0]
    for verdict in verdicts:
        shown += [value for value in verdict.differences if math.isfinite(value)]
        shown += verdict.decision.interval if verdict.decision else ()
    margin = 0.06 * (max(shown) - min(shown))
    axes.set_xlim(min(-0.5, min(shown) - margin), max(0.5, max(shown) + margin))
    axes.set_ylim(-(len(verdicts) - 1) - 0.5, 0.7)
