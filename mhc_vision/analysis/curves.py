"""Curves of logged metrics, several runs in one figure."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mhc_vision.analysis.figure_files import COLOURS, LINE_STYLES, new_figure, save_figure


def read_metric(path: str | os.PathLike[str], key: str) -> tuple[list[int], list[float]]:
    """Reads one metric from `metrics.jsonl`.

    A run resumed from an older checkpoint logs some steps again; of those only the later values count.

    Returns:
        Steps, rising, and the values there.

    Raises:
        ValueError: If a line is no JSON object, or the metric was never logged.
    """
    steps: list[int] = []
    values: list[float] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: no JSON object: {line[:80]!r}") from error
            if key not in record:
                continue
            while steps and steps[-1] >= record["step"]:
                steps.pop()
                values.pop()
            steps.append(record["step"])
            values.append(float(record[key]))
    if not steps:
        raise ValueError(f"{path} has no metric {key!r}")
    return steps, values


def smooth(values: list[float], window: int) -> list[float]:
    """Mean of each value and up to `window - 1` values before it."""
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
    figure = new_figure(6.4, 4.0)
    curves = {name: read_metric(path, key) for name, path in runs.items()}
    axes = figure.add_subplot()
    for index, (name, (steps, values)) in enumerate(curves.items()):
        style, colour = LINE_STYLES[index % len(LINE_STYLES)], COLOURS[index % len(COLOURS)]
        axes.plot(steps, smooth(values, window), style, color=colour, linewidth=1.4, label=name)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(label + (f", mean of {window}" if window > 1 else ""))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return save_figure(figure, destination)
