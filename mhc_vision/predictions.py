"""What a model said of each evaluated image: collected as it is evaluated, kept in a file, read by reports."""

import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mhc_vision.atomic_files import replaced_file
from mhc_vision.finite import finite_rows

NUM_SHOWN = 24
"""Mistakes whose images are kept."""
SIDE = 96
"""Pixels of the longer side of these images, at most."""
NOT_FINITE = -1
"""In place of a class where the logits are not finite."""


class Said(NamedTuple):
    """What was said of N images: `labels` and `classes`, int64; `confidences`, fp32, the softmax of the class said."""

    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidences: NDArray[np.float32]

    def most_confident_mistakes(self, count: int) -> NDArray[np.int64]:
        """Indices of up to so many wrong images, the most confident first."""
        wrong = np.flatnonzero((self.labels != self.classes) & (self.classes != NOT_FINITE))
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")][:count]

    def at(self, indices: NDArray[np.int64]) -> "Said":
        """Of some of the images."""
        return Said(self.labels[indices], self.classes[indices], self.confidences[indices])

    @staticmethod
    def of(logits: Tensor, labels: Tensor) -> "Said":
        """Of logits (N, num_classes) and labels (N,), on any device."""
        return Said(*(values.cpu().numpy() for values in (labels, *_said(logits))))

    @staticmethod
    def join(parts: Sequence["Said"]) -> "Said":
        """Of all images, in order."""
        return Said(*(np.concatenate(values) for values in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Predictions:
    """An evaluation of N images in C classes.

    Attributes:
        said: Of all images.
        class_names: C names.
        place: What was evaluated, in words: `"validation after step 100"`.
        mistakes: Of the most confident mistakes, the most confident first.
        images: Images of these, uint8 (K, H, W, channels), channels 1 or 3; K may be 0.
    """

    said: Said
    class_names: tuple[str, ...]
    place: str
    mistakes: Said
    images: NDArray[np.uint8]

    def confusion(self) -> NDArray[np.int64]:
        """Number of images by label and class said, (C, C); without those whose logits are not finite."""
        count = len(self.class_names)
        finite = self.said.classes != NOT_FINITE
        pairs = self.said.labels[finite] * count + self.said.classes[finite]
        return np.bincount(pairs, minlength=count * count).reshape(count, count)

    def totals(self) -> NDArray[np.int64]:
        """Number of images of each class, (C,)."""
        return np.bincount(self.said.labels, minlength=len(self.class_names))

    def right(self) -> NDArray[np.int64]:
        """Number of images of each class that are right, (C,)."""
        right = self.said.labels == self.said.classes
        return np.bincount(self.said.labels[right], minlength=len(self.class_names))

    def save(self, path: Path) -> None:
        """Writes an `.npz` without pickled objects."""
        with replaced_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                **{f"said_{name}": values for name, values in self.said._asdict().items()},
                **{f"mistakes_{name}": values for name, values in self.mistakes._asdict().items()},
                images=self.images,
                class_names=np.array(self.class_names),
                place=np.array(self.place),
            )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Predictions":
        """Reads what `save` has written.

        Raises:
            ValueError: The file is broken.
        """
        try:
            # a lone array would be no context manager
            if not zipfile.is_zipfile(path):
                raise ValueError("no .npz file, or cut short")
            with np.load(path, allow_pickle=False) as arrays:
                said, mistakes = (
                    Said(*(arrays[f"{kind}_{name}"] for name in Said._fields)) for kind in ("said", "mistakes")
                )
                names, place = tuple(map(str, arrays["class_names"])), str(arrays["place"])
                return Predictions(said, names, place, mistakes, arrays["images"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"predictions: {path} cannot be read: {error}") from error


def without_images(said: Said, class_names: tuple[str, ...], place: str) -> Predictions:
    """Predictions of which the mistakes are known, and not their images."""
    mistakes = said.at(said.most_confident_mistakes(NUM_SHOWN))
    return Predictions(said, class_names, place, mistakes, np.zeros((0, 1, 1, 3), np.uint8))


class PredictionCollector:
    """Collects what is said of batch after batch: 20 bytes per image, and the images of a few mistakes.

    Nothing here waits for the device.

    Args:
        to_pixels: From images as the model takes them, (B, C, H, W), to pixels in 0..1.
    """

    def __init__(self, to_pixels: Callable[[Tensor], Tensor]) -> None:
        self._to_pixels = to_pixels
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._shown: tuple[Tensor, ...] | None = None

    def add(self, images: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Takes a batch.

        Args:
            images: (B, C, H, W), C is 1 or 3 for images that can be shown.
            logits: (B, num_classes).
            labels: (B,), int64.
        """
        classes, confidences = _said(logits)
        self._batches.append((labels, classes, confidences))
        # below all others: what is right, and what says nothing
        wrong = torch.where((classes != labels) & (classes != NOT_FINITE), confidences, -1.0)
        best = wrong.topk(min(NUM_SHOWN, len(wrong))).indices
        batch: tuple[Tensor, ...] = (
            wrong[best],
            labels[best],
            classes[best],
            thumbnails(self._to_pixels(images[best])),
        )
        if self._shown is not None:
            batch = tuple(torch.cat(pair) for pair in zip(self._shown, batch, strict=True))
            best = batch[0].topk(min(NUM_SHOWN, len(batch[0]))).indices
            batch = tuple(values[best] for values in batch)
        self._shown = batch

    def result(self) -> tuple[Said, Said, NDArray[np.uint8]] | None:
        """What was said of all images, of the mistakes that are shown, and their images; `None` without a batch."""
        if self._shown is None:
            return None
        said = Said(*(torch.cat(values).cpu().numpy() for values in zip(*self._batches, strict=True)))
        confidences, labels, classes, images = (values.cpu().numpy() for values in self._shown)
        wrong = confidences >= 0
        return said, Said(labels[wrong], classes[wrong], confidences[wrong]), images[wrong]


def join_results(parts: Sequence[tuple[Said, Said, NDArray[np.uint8]]]) -> tuple[Said, Said, NDArray[np.uint8]]:
    """The results of several processes as one, with the most confident mistakes of all."""
    said, mistakes = Said.join([part[0] for part in parts]), Said.join([part[1] for part in parts])
    images = np.concatenate([part[2] for part in parts])
    first = mistakes.most_confident_mistakes(NUM_SHOWN)
    return said, mistakes.at(first), images[first]


def _said(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Class and confidence of each row; `NOT_FINITE` and 0 of one that is not finite."""
    confidences, classes = logits.float().softmax(1).max(1)
    finite = finite_rows(logits)
    return torch.where(finite, classes, NOT_FINITE), torch.where(finite, confidences, 0.0)


def thumbnails(pixels: Tensor) -> Tensor:
    """(B, C, H, W) in 0..1 as uint8 (B, h, w, C), C 1 or 3, the longer side at most `SIDE`."""
    channels = 3 if pixels.shape[1] >= 3 else 1
    pixels = pixels[:, :channels].float()
    longer = max(pixels.shape[-2:])
    if longer > SIDE:
        height, width = (max(1, round(SIDE * length / longer)) for length in pixels.shape[-2:])
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return pixels.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
