"""Images of any size with their labels: to divide, to join, to transform, to keep decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from mhc_vision.data.decode import decode_file, decode_in_threads

_NUM_PROBES = 32


@dataclass(frozen=True)
class LabelledImages:
    """A dataset whose labels are known without reading an image.

    Attributes:
        images: Samples (uint8 (3, H, W), label).
        labels: Of each sample.
        groups: What each sample shows, where several show the same; else `None`.
    """

    images: Dataset
    labels: list[int]
    groups: list[str] | None = None

    def take(self, indices: Sequence[int]) -> LabelledImages:
        """The samples of these indices."""
        groups = None if self.groups is None else [self.groups[index] for index in indices]
        return LabelledImages(Subset(self.images, indices), [self.labels[index] for index in indices], groups)

    def join(self, other: LabelledImages) -> LabelledImages:
        """These samples and the others after them."""
        groups = None if self.groups is None or other.groups is None else self.groups + other.groups
        return LabelledImages(ConcatDataset([self.images, other.images]), self.labels + other.labels, groups)


class FileImages(Dataset):
    """Image files of any format that Pillow reads, as (uint8 (3, H, W), label).

    Args:
        paths: The files.
        labels: Their labels.
    """

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        self.paths = paths
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A sample.

        Raises:
            ValueError: If the file cannot be read or decoded; the message names it.
        """
        return decode_file(self.paths[index]), self.labels[index]


class TransformedImages(Dataset):
    """Another dataset of (image, label) with a transform of the images.

    Args:
        images: Samples (uint8 (3, H, W), label).
        transform: From uint8 (3, H, W) of any size to the model's size.
    """

    def __init__(self, images: Dataset, transform: Callable[[Tensor], Tensor]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A sample, as the dataset gives it or raises an error."""
        image, label = self.images[index]
        return self.transform(image), label


class DecodedImages(Dataset):
    """Keeps what another dataset gives in memory, from `decode` or the first access on.

    Args:
        source: Samples (uint8 (3, H, W), label) of any size; let go when they are decoded.
    """

    def __init__(self, source: Dataset) -> None:
        self.source: Dataset | None = source
        self.samples: list[tuple[Tensor, int]] = []
        self._length = len(source)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A sample."""
        self.decode()
        return self.samples[index]

    @property
    def is_decoded(self) -> bool:
        """Whether the images have their memory already."""
        return self.source is None

    def estimated_bytes(self) -> int:
        """About how much memory the images take, by the mean size of a few of them, evenly spread.

        Raises:
            ValueError: If one of these cannot be decoded.
        """
        if not len(self):
            return 0
        probes = torch.linspace(0, len(self) - 1, min(_NUM_PROBES, len(self))).long().tolist()
        sizes = [(self.source or self)[index][0].nbytes for index in probes]
        return len(self) * sum(sizes) // len(sizes)

    def decode(self, num_processes: int = 1) -> None:
        """Decode all images, unless that is done.

        Args:
            num_processes: Processes that share the cores of this machine and decode at the same time.

        Raises:
            ValueError: If images cannot be decoded; the message counts them and names the first few.
        """
        source = self.source
        if source is None:
            return
        samples: list = [None] * len(self)

        def decode(index: int) -> None:
            samples[index] = source[index]

        decode_in_threads(decode, len(self), num_processes)
        self.samples, self.source = samples, None
