"""A few images for a model to be looked at with, from wherever there are some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from mhc_vision.checks import check_whole_number
from mhc_vision.data import ImageDataModule
from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.decode import decode_rgb
from mhc_vision.data.folders import class_folders, list_class_images
from mhc_vision.data.transforms import eval_transform
from mhc_vision.inference.evaluation_images import (
    EvaluationImages,
    collate_readable,
    evaluation_folder,
    list_flat_images,
)
from mhc_vision.inference.load_model import LoadedModel

_NEIGHBOURS = 4


@dataclass(frozen=True)
class SampleImages:
    """What the functions of this module give.

    Attributes:
        batches: Images (B, C, H, W) as a model takes them, and labels (B,), on the CPU; to be iterated once.
        class_names: In the order of the labels.
        source: What the images are, in words.
    """

    batches: Iterator[tuple[Tensor, Tensor]]
    class_names: list[str]
    source: str


def sample_indices(num_samples: int, num_images: int) -> list[int]:
    """Indices of groups of four neighbours, evenly spaced: in a set sorted by class, several images of some classes.

    Args:
        num_samples: Size of the set.
        num_images: How many to take, at most all.

    Raises:
        ValueError: If that is no whole number from 1.
    """
    check_whole_number("num_images", num_images, at_least=1)
    num_images = min(num_images, num_samples)
    num_groups = max(1, -(-num_images // _NEIGHBOURS))
    parts = np.array_split(np.arange(num_samples), num_groups)
    counts = [len(part) for part in np.array_split(np.arange(num_images), num_groups)]
    return [int(index) for part, count in zip(parts, counts, strict=True) for index in part[:count]]


def images_of_data(data: LightningDataModule, num_images: int, batch_size: int) -> SampleImages:
    """Evaluation images of a data module: `sample_indices` of them, the first ones of a stream.

    Raises:
        ValueError: It has no validation images.
    """
    if not isinstance(data, ImageDataModule):
        data.prepare_data()
        data.setup("validate")
    # ours have everything from construction on; their setup is for a trainer's device
    if not is_overridden("val_dataloader", data):
        raise ValueError(f"data: got {type(data).__name__} without validation images, expected some")
    loader: Any = data.val_dataloader()
    loader = loader[0] if isinstance(loader, list | tuple) else loader
    return SampleImages(
        _data_batches(data, loader, num_images, batch_size),
        list(getattr(data, "class_names", ())),
        f"evaluation images of {type(data).__name__}",
    )


def _data_batches(
    data: LightningDataModule, loader: DataLoader, num_images: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    dataset: Any = loader.dataset
    if not isinstance(dataset, IterableDataset):
        subset = Subset(dataset, sample_indices(len(dataset), num_images))
        loader = DataLoader(subset, batch_size, collate_fn=loader.collate_fn)
    remaining = num_images
    for images, labels in loader:
        for some, their_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            batch = (some[:remaining], their_labels[:remaining])
            remaining -= len(batch[0])
            yield data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
            if remaining == 0:
                return


def images_of_folder(folder: Path, model: LoadedModel, num_images: int, batch_size: int) -> SampleImages:
    """Images of class folders (or of one folder) made as the model wants them.

    Args:
        folder: `folder/<class>/*`, a folder with such a `val/` or `test/`, or one with images. The names of the classes
            need not be the model's.
        model: Of RGB images.
        num_images: How many, at most all; see `sample_indices`.
        batch_size: Images per batch.

    Raises:
        ValueError: The folder is missing or has no images, or the model takes no RGB images. An image that cannot be
            read raises it when its batch is made.
    """
    if model.in_chans != 3:
        raise ValueError(
            f"data: got {model.source} for images of {model.in_chans} channel(s), expected 3: files are read as RGB"
        )
    folder = evaluation_folder(folder)
    class_names = class_folders(folder)
    if class_names:
        paths, labels = list_class_images(folder, {name: index for index, name in enumerate(class_names)})
    else:
        paths = list_flat_images(folder)
        class_names, labels = [folder.name], [0] * len(paths)
    indices = sample_indices(len(paths), num_images)
    batches = _file_batches([paths[i] for i in indices], [labels[i] for i in indices], model, batch_size)
    return SampleImages(batches, class_names, f"images in {folder}")


def _file_batches(
    paths: Sequence[str], labels: Sequence[int], model: LoadedModel, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    transform = eval_transform(model.img_size, model.interpolation, model.crop_pct, model.crop_mode)
    normalise = BatchAugment(model.mean, model.std, max(labels) + 1).eval()
    targets = torch.tensor(labels)
    decode = partial(decode_rgb, exif_orientation=bool(model.exif_orientation))
    for indices, images, errors in DataLoader(
        EvaluationImages(paths, transform, decode), batch_size, collate_fn=collate_readable
    ):
        if errors:
            raise ValueError(errors[0])
        yield normalise(images, targets[indices])


def random_images(model: LoadedModel, num_images: int, batch_size: int) -> SampleImages:
    """Normally distributed noise in place of images, the same each time, all of one class."""
    shape = (model.in_chans, model.img_size, model.img_size)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, num_images, batch_size):
            count = min(batch_size, num_images - start)
            yield torch.randn(count, *shape, generator=generator), torch.zeros(count, dtype=torch.int64)

    return SampleImages(batches(), ["noise"], "random noise, no images")
