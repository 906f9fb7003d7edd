"""Curves of logged metrics, several runs in one figure."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mhc_vision.checks import check_whole_number
from mhc_vision.metrics_log import read_metric
from mhc_vision.report.figures import INK, figure_style, line_look, new_figure, plain_text, save_figure
from mhc_vision.report.line_names import NAME_HEIGHT, name_lines

# drawn points from which a curve has a steep start to speak of
_LONG = 10


def smooth(values: list[float], window: int) -> list[float]:
    """Mean of each value and up to `window - 1` values before it.

    Raises:
        ValueError: If the window is no whole number from 1.
    """
    check_whole_number("window", window, at_least=1)
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i - window + 1) : i + 1]]]


def plot_loss_curves(
    runs: Mapping[str, str | os.PathLike[str]],
    destination: str | os.PathLike[str],
    *,
    key: str = "train/loss",
    label: str = "training loss (nats)",
    window: int = 1,
) -> list[Path]:
    """Draws one metric of several runs over the optimiser steps.

    Values that are not finite are gaps, and counted in the name of the curve.

    Args:
        runs: `metrics.jsonl` of each run, by the name shown at the end of its curve.
        destination: Path without extension; `.png` and `.svg` are written.
        key: The metric.
        label: Its name and unit, for the axis.
        window: Logged values that each drawn value is the mean of.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a log is broken, or lacks the metric.
    """
    curves = {}
    for name, path in runs.items():
        steps, values = read_metric(path, key)
        curves[name] = [(steps, smooth(values, window))]
    return plot_seed_bands(curves, destination, label=label + (f", mean of {window}" if window > 1 else ""))


def plot_seed_bands(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    destination: str | os.PathLike[str],
    *,
    label: str,
    over: str = "optimiser step",
    zero_line: bool = False,
) -> list[Path]:
    """Draws one metric of several arms over the optimiser steps: the mean over seeds in a band from lowest to highest.

    Where the value of a seed is not finite there is a gap; the name at the end of the curve counts such seeds. The
    y axis is that of all but the first fifth of the steps.

    Args:
        curves: By the name shown at the end, (steps, values) of each seed; where seeds differ in their steps, those
            that all have are drawn. Colours follow the order, also of arms without a curve.
        destination: Path without extension; `.png` and `.svg` are written.
        label: Name and unit of the metric, for the axis.
        over: Name and unit of what it is drawn over, where this is not the steps.
        zero_line: Draw a line at 0, for differences.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
    """
    with figure_style():
        figure = new_figure(6.4, max(4.0, 1.0 + NAME_HEIGHT * len(curves)))
        axes = figure.add_subplot()
        axes.set_xlabel(over)
        axes.set_ylabel(label)
        axes.grid()
        if zero_line:
            axes.axhline(0.0, color=INK, linewidth=0.8)
        # many bands on top of each other are to stay light
        opacity = min(0.15, 0.6 / max(1, len(curves)))
        lines = {
            name: _draw_arm(axes, name, seeds, line_look(index), opacity)
            for index, (name, seeds) in enumerate(curves.items())
            if seeds
        }
        _leave_out_the_start(axes, list(lines.values()))
        name_lines(axes, list(lines.values()))
        return save_figure(figure, destination)


def _draw_arm(
    axes: Any,
    name: str,
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]],
    look: dict[str, Any],
    opacity: float,
) -> Any:
    """The line of an arm, with its band."""
    tables = [dict(zip(steps, values, strict=True)) for steps, values in seeds]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    columns = [[table[step] for table in tables] for step in steps]
    # a short run may have one point only
    look = look | {"marker": look["marker"] if len(steps) < 30 else "", "markersize": 3}
    # where one is not finite there is neither a mean nor a band; min() and max() may pass over a NaN
    means = _drawable([sum(column) / len(column) for column in columns])
    (line,) = axes.plot(steps, means, label=plain_text(f"{name}{_lost_text(seeds)}"), **look)
    if len(seeds) > 1:
        drawn = [column if math.isfinite(mean) else [mean] for column, mean in zip(columns, means, strict=True)]
        lowest, highest = [min(column) for column in drawn], [max(column) for column in drawn]
        axes.fill_between(steps, lowest, highest, color=look["color"], alpha=opacity, linewidth=0)
    return line


def _leave_out_the_start(axes: Any, lines: Sequence[Any]) -> None:
    """Scales the y axis to all but the first fifth of the steps, whose steep part would flatten the rest."""
    steps = sorted({step for line in lines for step in line.get_xdata()})
    if len(steps) < _LONG:
        return
    parts = [*lines, *axes.collections]
    begin = steps[len(steps) // 5]
    later = [
        value
        for part in parts
        for step, value in (part.get_paths()[0].vertices if part in axes.collections else part.get_xydata())
        if step >= begin and math.isfinite(value)
    ]
    if later and min(later) < max(later):
        margin = 0.05 * (max(later) - min(later))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(later) - margin), min(high, max(later) + margin))


def _lost_text(seeds: Sequence[tuple[Sequence[float], Sequence[float]]]) -> str:
    """How much is not finite: of one seed its values, of several the seeds that have such values."""
    flags = [[not math.isfinite(value) for value in values] for _, values in seeds]
    of = flags[0] if len(flags) == 1 else [any(flag) for flag in flags]
    return f" ({sum(of)} of {len(of)} not finite)" if any(of) else ""


def _drawable(values: Sequence[float]) -> list[float]:
    """Gaps for what is not finite, infinities included."""
    return [value if math.isfinite(value) else math.nan for value in values]
