"""Labels, names, files and partitions of torchvision's datasets, each of which keeps them in its own way."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

targets: Callable[[Any], Sequence[int]] = attrgetter("targets")
files: Callable[[Any], Sequence[Path]] = attrgetter("_image_files")


def from_pairs(attribute: str, place: int) -> Callable[[Any], list[Any]]:
    """The first (0) or second (1) parts of the pairs that an attribute holds."""
    return lambda dataset: [pair[place] for pair in getattr(dataset, attribute)]


def fixed(names: Sequence[str]) -> Callable[[Any], Sequence[str]]:
    """The same names for every object."""
    return lambda dataset: names


def pcam_labels(dataset: Any) -> list[int]:
    """Labels (N, 1, 1, 1) of an HDF5 file."""
    name = dataset._FILES[dataset._split]["targets"][0]
    with dataset.h5py.File(dataset._base_folder / name) as content:
        return content["y"][:, 0, 0, 0].tolist()


def sun397_partition(dataset: Any, split: str) -> list[int]:
    """Indices of the first of the paper's ten partitions: 50 images of each class to train, 50 others to test.

    Args:
        dataset: torchvision's, undivided.
        split: `train` or `test`.

    Raises:
        ValueError: If the partition's file is not there, or names an image that is not.
    """
    folder = dataset._data_dir
    path = folder / {"train": "Training_01.txt", "test": "Testing_01.txt"}[split]
    if not path.is_file():
        raise ValueError(
            f"dataset: sun397 needs its official partition, {path}, which torchvision does not fetch: take it from "
            "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
        )
    index = {f"/{file.relative_to(folder).as_posix()}": place for place, file in enumerate(dataset._image_files)}
    names = path.read_text(encoding="utf-8").split()
    if missing := [name for name in names if name not in index]:
        raise ValueError(f"dataset: sun397 lacks {len(missing)} images of {path.name}, the first {folder}{missing[0]}")
    return [index[name] for name in names]
