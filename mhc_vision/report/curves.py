"""Curves of logged metrics, several runs in one figure."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mhc_vision.checks import check_whole_number
from mhc_vision.metrics_log import read_metric
from mhc_vision.report.figures import line_look, new_figure, save_figure


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

    Values that are not finite are gaps, and counted in the legend.

    Args:
        runs: `metrics.jsonl` of each run, by the name shown in the legend.
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
    curves = {name: read_metric(path, key) for name, path in runs.items()}
    figure, axes = _figure(label + (f", mean of {window}" if window > 1 else ""))
    for index, (name, (steps, values)) in enumerate(curves.items()):
        lost = sum(not math.isfinite(value) for value in values)
        label_of_run = f"{name} ({lost} of {len(values)} not finite)" if lost else name
        axes.plot(
            steps, _drawable(smooth(values, window)), label=_plain(label_of_run), **line_look(index) | {"marker": ""}
        )
    return _save(figure, axes, destination)


def plot_seed_bands(
    curves: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float]]]],
    destination: str | os.PathLike[str],
    *,
    label: str,
    zero_line: bool = False,
) -> list[Path]:
    """Draws one metric of several arms over the optimiser steps: the mean over seeds in a band from lowest to highest.

    Where the value of a seed is not finite there is a gap; the legend counts such seeds.

    Args:
        curves: By the name shown in the legend, (steps, values) of each seed; where seeds differ in their steps, those
            that all have are drawn. Colours follow the order, also of arms without a curve.
        destination: Path without extension; `.png` and `.svg` are written.
        label: Name and unit of the metric, for the axis.
        zero_line: Draw a line at 0, for differences.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure, axes = _figure(label)
    if zero_line:
        axes.axhline(0.0, color="#000000", linewidth=0.8)
    for index, (name, seeds) in enumerate(curves.items()):
        if not seeds:
            continue
        tables = [dict(zip(steps, values, strict=True)) for steps, values in seeds]
        steps = sorted(set.intersection(*(set(table) for table in tables)))
        columns = [[table[step] for table in tables] for step in steps]
        # a short run may have one point only
        look = line_look(index) | {"marker": "o" if len(steps) < 30 else "", "markersize": 3}
        lost = sum(not all(map(math.isfinite, values)) for _, values in seeds)
        label_of_arm = f"{name} ({lost} of {len(seeds)} not finite)" if lost else name
        # where one is not finite there is neither a mean nor a band; min() and max() may pass over a NaN
        means = _drawable([sum(column) / len(column) for column in columns])
        axes.plot(steps, means, label=_plain(label_of_arm), **look)
        if len(seeds) > 1:
            drawn = [column if math.isfinite(mean) else [mean] for column, mean in zip(columns, means, strict=True)]
            lowest, highest = [min(column) for column in drawn], [max(column) for column in drawn]
            axes.fill_between(steps, lowest, highest, color=look["color"], alpha=0.15, linewidth=0)
    return _save(figure, axes, destination)


def _drawable(values: Sequence[float]) -> list[float]:
    """Gaps for what is not finite, infinities included."""
    return [value if math.isfinite(value) else math.nan for value in values]


def _figure(label: str) -> tuple[Any, Any]:
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, axes: Any, destination: str | os.PathLike[str]) -> list[Path]:
    axes.legend(frameon=False)
    return save_figure(figure, destination)


def _plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
