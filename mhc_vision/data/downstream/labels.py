"""Labels, names, files and partitions of torchvision's datasets, each of which keeps them in its own way."""

import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from mhc_vision.checks import first_few

targets: Callable[[Any], Sequence[int]] = attrgetter("targets")
files: Callable[[Any], Sequence[Path]] = attrgetter("_image_files")


def from_pairs(attribute: str, place: int) -> Callable[[Any], list[Any]]:
    """The first (0) or second (1) parts of the pairs that an attribute holds."""
    return lambda dataset: [pair[place] for pair in getattr(dataset, attribute)]


def fixed(names: Sequence[str]) -> Callable[[Any], Sequence[str]]:
    """The same names for every object."""
    return lambda dataset: names


def by_index(dataset: Any) -> list[str]:
    """The names in the order of their labels, where `classes` is in alphabetical order."""
    return sorted(dataset.class_to_idx, key=dataset.class_to_idx.__getitem__)


def caltech_files(folder: str, pattern: str) -> Callable[[Any], list[str]]:
    """The files of Caltech's datasets, of which torchvision keeps class and number.

    Args:
        folder: Has the class folders.
        pattern: Of a file's name, with `number`, and `label` counted from 1.
    """
    return lambda dataset: [
        os.path.join(dataset.root, folder, dataset.categories[label], pattern.format(label=label + 1, number=number))
        for label, number in zip(dataset.y, dataset.index, strict=True)
    ]


def inaturalist_files(dataset: Any) -> list[str]:
    """The files of iNaturalist, of which torchvision keeps class and name."""
    return [os.path.join(dataset.root, dataset.all_categories[label], name) for label, name in dataset.index]


def track(path: str) -> str:
    """What GTSRB's pictures of one sign share, taken from a car that comes nearer: 00003 of 00003_00017.ppm."""
    return path.rpartition("_")[0]


def pcam_labels(dataset: Any) -> list[int]:
    """Labels (N, 1, 1, 1) of an HDF5 file."""
    name = dataset._FILES[dataset._split]["targets"][0]
    with dataset.h5py.File(dataset._base_folder / name) as content:
        return content["y"][:, 0, 0, 0].tolist()


def sun397_partition(paths: Sequence[str], root: Path, split: str) -> list[int]:
    """Indices of the first of the paper's ten partitions: 50 images of each class to train, 50 others to test.

    Args:
        paths: All images.
        root: The folder that has `SUN397/`.
        split: `train` or `test`.

    Raises:
        ValueError: If the partition's file names images that are not there.
    """
    folder = root / "SUN397"
    listed = folder / {"train": "Training_01.txt", "test": "Testing_01.txt"}[split]
    index = {path: place for place, path in enumerate(paths)}
    names = [os.path.join(folder, *name.split("/")) for name in listed.read_text(encoding="utf-8").split()]
    if absent := [name for name in names if name not in index]:
        raise ValueError(
            f"dataset: sun397: got {len(names) - len(absent)} images, expected the {len(names)} of {listed}; missing: "
            f"{first_few(absent)}"
        )
    return [index[name] for name in names]
