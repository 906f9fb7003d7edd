"""ReaL: the reassessed labels of ImageNet's validation images (Beyer et al. 2020, arXiv 2006.07159)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from timm.data import RealLabelsImagenet
from torch import Tensor

SHIPPED = "timm"
NUM_IMAGES = 50_000
NUM_CLASSES = 1_000

# some copies of the set append the WordNet id: ILSVRC2012_val_00000293_n01440764.JPEG
_FILE_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?:_n\d{8})?\.jpe?g", re.IGNORECASE)


def load_real_labels(source: str) -> list[list[int]]:
    """The labels of each validation image, in the order of the file names; none where no label is right.

    Args:
        source: Path of `real.json` of github.com/google-research/reassessed-imagenet, or `"timm"` for the copy that
            timm ships.

    Raises:
        ValueError: If it is not JSON, not a list of lists of class indices, or empty.
    """
    if source == SHIPPED:
        return list(RealLabelsImagenet(range(NUM_IMAGES)).real_labels.values())
    try:
        labels = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"real_labels: {source} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"real_labels: got {source}, expected JSON: {error}") from error
    if not isinstance(labels, list) or not labels:
        raise ValueError(f"real_labels: got {source}, expected a list with a list of labels for each image")
    for place, entry in enumerate(labels):
        if not isinstance(entry, list) or any(
            type(label) is not int or not 0 <= label < NUM_CLASSES for label in entry
        ):
            raise ValueError(
                f"real_labels: {source}: entry {place}: got {str(entry)[:80]}, "
                f"expected a list of class indices from 0 to {NUM_CLASSES - 1}"
            )
    return labels


def real_labels_of(paths: Sequence[str], labels: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The labels of these files: `ILSVRC2012_val_00000001.JPEG` has the first entry.

    Raises:
        ValueError: If a file has another kind of name, the labels do not reach it, or no file has any.
    """
    found = []
    for path in paths:
        match = _FILE_NAME.fullmatch(Path(path).name)
        if match is None:
            raise ValueError(
                f"real_labels: got {path}, expected a name as ILSVRC2012_val_00000001.JPEG, ImageNet's validation"
            )
        number = int(match[1])
        if not 1 <= number <= len(labels):
            raise ValueError(f"real_labels: got {path}, image {number}, expected 1 to {len(labels)}, which have labels")
        found.append(labels[number - 1])
    if not any(found):
        raise ValueError(f"real_labels: got {len(paths)} images without a label, expected one that has some")
    return found


def real_accuracy(predictions: Tensor, labels: Sequence[Sequence[int]]) -> tuple[float | None, int]:
    """Part of the images whose prediction is one of their labels; those without labels do not count.

    Args:
        predictions: (N,) class indices; negative for images that are left out.
        labels: Of each image.

    Returns:
        The accuracy in [0, 1], `None` if nothing is left, and the number of images that count.
    """
    right = [
        prediction in allowed
        for prediction, allowed in zip(predictions.tolist(), labels, strict=True)
        if allowed and prediction >= 0
    ]
    return (sum(right) / len(right) if right else None), len(right)
