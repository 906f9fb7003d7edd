"""The part of a report on what a model said of each image: classes, confusions, mistakes."""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mhc_vision.predictions import NOT_FINITE, Predictions
from mhc_vision.report.pages import Block, Figure, Heading, Paragraph, Table
from mhc_vision.report.prediction_figures import MOST_CLASSES, plot_class_accuracy, plot_confusion, plot_mistakes
from mhc_vision.run_directory import CLASSES_FIGURE, CONFUSION_FIGURE, MISTAKES_FIGURE

_NUM_PAIRS = 20
_NUM_CLASSES = 15
_MATRIX_CLASSES = 24


def prediction_blocks(predictions: Predictions, directory: Path) -> list[Block]:
    """Accuracy per class, confusion matrix and pairs, and the most confident mistakes.

    Figures are drawn where matplotlib is installed.

    Args:
        predictions: Of an evaluation of at least one image.
        directory: Of the report; figures go to `figures/` in it.
    """
    draws = importlib.util.find_spec("matplotlib") is not None
    total, right = int(predictions.totals().sum()), int(predictions.right().sum())
    said = (
        f"Evaluated: {predictions.place}, {total:,} images, of which {right:,} are right ({100 * right / total:.2f} %)."
    )
    if lost := int((predictions.said.classes == NOT_FINITE).sum()):
        said += f" The logits of {lost:,} images are not finite; they count as wrong, and are no confusion."
    blocks: list[Block] = [Heading(2, "Classes"), Paragraph(said)]
    if draws:
        png, svg = plot_class_accuracy(predictions, directory / CLASSES_FIGURE)
        blocks.append(Figure(png, svg, "accuracy of each class, the least accurate first; dashed: of all images"))
    blocks += _class_table(predictions)
    if right == total:
        return [*blocks, Paragraph("No image is wrong: there is nothing to confuse.")]
    confusion = predictions.confusion()
    pairs = confused_pairs(confusion)
    blocks.append(Heading(2, "Confusions"))
    if draws and pairs:
        blocks.append(_confusion_figure(confusion, pairs, predictions, directory))
    if pairs:
        text = f"The most frequent confusions, {min(len(pairs), _NUM_PAIRS)} of {len(pairs):,} pairs of classes:"
        blocks += [Paragraph(text), _pair_table(confusion, pairs, predictions)]
    if draws and len(predictions.images):
        png, svg = plot_mistakes(predictions, directory / MISTAKES_FIGURE)
        caption = "wrong images of which the model was surest: the predicted class with its softmax, and the true one"
        blocks += [Heading(2, "Most confident mistakes"), Figure(png, svg, caption)]
    return blocks


def confused_pairs(confusion: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(true, predicted) of all pairs of different classes that occur, the most frequent first."""
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[: np.count_nonzero(mistakes)]
    rows, columns = np.unravel_index(order, mistakes.shape)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _class_table(predictions: Predictions) -> list[Block]:
    """All classes where they are few, else the least accurate ones."""
    totals, right = predictions.totals(), predictions.right()
    present = np.flatnonzero(totals > 0)
    order = present[np.argsort(right[present] / totals[present], kind="stable")]
    rows = [
        {
            "class": predictions.class_names[index],
            "accuracy (%)": f"{100 * right[index] / totals[index]:.1f}",
            "right": f"{right[index]:,}",
            "images": f"{totals[index]:,}",
        }
        for index in order[: len(order) if len(order) <= MOST_CLASSES else _NUM_CLASSES]
    ]
    if len(rows) == len(order):
        return [Table(rows)]
    return [Paragraph(f"The {len(rows)} least accurate of {len(order):,} classes:"), Table(rows)]


def _pair_table(confusion: NDArray[np.int64], pairs: list[tuple[int, int]], predictions: Predictions) -> Table:
    names, totals = predictions.class_names, predictions.totals()
    return Table(
        [
            {
                "true": names[true],
                "predicted": names[said],
                "images": f"{confusion[true, said]:,}",
                "of the true class (%)": f"{100 * confusion[true, said] / totals[true]:.1f}",
                "the other way round": f"{confusion[said, true]:,}",
            }
            for true, said in pairs[:_NUM_PAIRS]
        ]
    )


def _confusion_figure(
    confusion: NDArray[np.int64], pairs: list[tuple[int, int]], predictions: Predictions, directory: Path
) -> Figure:
    names = predictions.class_names
    if len(names) <= MOST_CLASSES:
        png, svg = plot_confusion(confusion, names, directory / CONFUSION_FIGURE)
        return Figure(png, svg, "images by true class (rows) and predicted class (columns)")
    # those of the most frequent confusions, in that order, so that confused classes stand side by side
    chosen = list(dict.fromkeys(index for pair in pairs for index in pair))[:_MATRIX_CLASSES]
    part = confusion[np.ix_(chosen, chosen)]
    others = confusion[chosen].sum(1, keepdims=True) - part.sum(1, keepdims=True)
    png, svg = plot_confusion(
        np.hstack([part, others]), [names[index] for index in chosen], directory / CONFUSION_FIGURE, others=True
    )
    caption = (
        f"images by true class (rows) and predicted class (columns): {len(chosen)} classes with the most confusions"
    )
    return Figure(png, svg, f"{caption}, of {len(names):,}")
