"""Figures of an evaluation: accuracy per class, confusion matrix, and a sheet of the most confident mistakes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mhc_vision.predictions import Predictions
from mhc_vision.report.figures import COLOURS, FAINT, INK, figure_style, new_figure, plain_text, save_figure

MOST_CLASSES = 30
"""Up to so many classes are shown one by one."""
_MOST_NUMBERS = 20
_COLUMNS = 4
_LONGEST_NAME = 22


def plot_class_accuracy(predictions: Predictions, destination: str | os.PathLike[str]) -> list[Path]:
    """A bar for each class, the least accurate first; of many classes one line over all of them.

    Args:
        predictions: Of an evaluation.
        destination: Path without extension; `.png` and `.svg` are written.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
    """
    totals = predictions.totals()
    order = np.flatnonzero(totals > 0)
    accuracy = 100 * predictions.right()[order] / totals[order]
    rising = np.argsort(accuracy, kind="stable")
    order, accuracy = order[rising], accuracy[rising]
    overall = 100 * predictions.right().sum() / totals.sum()
    with figure_style():
        if len(order) <= MOST_CLASSES:
            figure = new_figure(6.4, 1.0 + 0.24 * len(order))
            axes = figure.subplots()
            axes.barh(range(len(order)), accuracy, color=COLOURS[0], height=0.7)
            axes.set_yticks(
                range(len(order)), [_short(predictions.class_names[index]) for index in order], fontsize=8.5
            )
            axes.invert_yaxis()
            axes.set_xlim(0, 100)
            axes.set_xlabel("accuracy of the class (%)")
            axes.axvline(overall, color=INK, linewidth=1.0, linestyle="--")
            axes.grid(axis="x")
        else:
            figure = new_figure(6.4, 3.4)
            axes = figure.subplots()
            axes.plot(range(1, len(order) + 1), accuracy, color=COLOURS[0], drawstyle="steps-mid")
            axes.set_xlabel("classes, the least accurate first")
            axes.set_ylabel("accuracy of the class (%)")
            axes.set_ylim(0, 102)
            axes.axhline(overall, color=INK, linewidth=1.0, linestyle="--")
            axes.grid()
        return save_figure(figure, destination)


def plot_confusion(
    confusion: NDArray[np.int64], names: Sequence[str], destination: str | os.PathLike[str], others: bool = False
) -> list[Path]:
    """The confusion matrix: rows are labels, columns what was said, colours parts of a row.

    Args:
        confusion: (R, C) numbers of images.
        names: Of the R rows.
        destination: Path without extension; `.png` and `.svg` are written.
        others: Whether a last column, C = R + 1, has all other classes.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
    """
    count = len(names)
    shares = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    with figure_style():
        side = 2.2 + 0.26 * max(count, 8)
        figure = new_figure(side + 0.9, side)
        axes = figure.subplots()
        # the square root: mistakes are small parts of a row
        image = axes.imshow(100 * shares, cmap="Blues", norm=_square_root(), interpolation="nearest")
        if count <= _MOST_NUMBERS:
            _write_counts(axes, confusion, shares)
        shown = [_short(name) for name in names]
        axes.set_yticks(range(count), shown, fontsize=7.5)
        columns = [*shown, "all others"] if others else shown
        upright = max(map(len, columns)) > 2
        axes.set_xticks(range(len(columns)), columns, fontsize=7.5, rotation=90 if upright else 0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, label="part of the true class (%)", shrink=0.8)
        bar.set_ticks([0, 1, 5, 20, 50, 100])
        return save_figure(figure, destination)


def plot_mistakes(predictions: Predictions, destination: str | os.PathLike[str]) -> list[Path]:
    """The images of the most confident mistakes with the true class, the predicted one and its confidence.

    Args:
        predictions: Of an evaluation with at least one mistake that has an image.
        destination: Path without extension; `.png` and `.svg` are written.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
    """
    count = len(predictions.images)
    rows = -(-count // _COLUMNS)
    names = predictions.class_names
    with figure_style():
        figure = new_figure(6.4, 2.05 * rows)
        panels = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for index, axes in zip(range(count), panels.flat, strict=False):
            grey = predictions.images.shape[-1] == 1
            pixels = predictions.images[index, ..., 0] if grey else predictions.images[index]
            axes.imshow(pixels, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest")
            label, said, confidence = (values[index] for values in predictions.mistakes)
            axes.set_title(f"{_short(names[said])}, {100 * confidence:.0f} %", fontsize=8.5, color=INK, pad=14)
            beneath = {"transform": axes.transAxes, "fontsize": 8, "color": FAINT, "ha": "center", "va": "bottom"}
            axes.text(0.5, 1.02, f"true: {_short(names[label])}", **beneath)
        return save_figure(figure, destination)


def _square_root() -> Any:
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=100)


def _write_counts(axes: Any, confusion: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), number in np.ndenumerate(confusion):
        if number:
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, f"{number}", ha="center", va="center", fontsize=7, color=colour)


def _short(name: str) -> str:
    """A name that fits beside a figure; ImageNet's list several words."""
    name = name.split(",")[0]
    return plain_text(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…")
