"""Folders with one folder a class: which classes there are, and the image files of each."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from mhc_vision.data.decode import DECODABLE_SUFFIXES
from mhc_vision.data.naming import first_few


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder`; hidden ones, such as `.ipynb_checkpoints`, are no classes."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def list_class_images(folder: Path, labels: Mapping[str, int], argument: str = "folder") -> tuple[list[str], list[int]]:
    """The image files under each class folder, and their labels.

    Args:
        folder: Has the class folders.
        labels: Label of each class folder by name.
        argument: What an error calls the argument that the folder comes from.

    Raises:
        ValueError: If a class has no images or a file has a format that cannot be decoded.
    """
    samples = make_dataset(str(folder), dict(labels), extensions=IMG_EXTENSIONS, allow_empty=True)
    check_class_images(folder, samples, labels, argument)
    return [path for path, _ in samples], [label for _, label in samples]


def check_class_images(
    folder: Path, samples: Sequence[tuple[str, int]], labels: Mapping[str, int], argument: str
) -> None:
    """Check what torchvision has listed in class folders.

    Args:
        folder: Has the class folders.
        samples: Path and label of each file.
        labels: Label of each class folder by name.
        argument: What an error calls the argument that the folder comes from.

    Raises:
        ValueError: If a class has no images or a file has a format that cannot be decoded.
    """
    if empty := set(labels.values()) - {label for _, label in samples}:
        named = first_few(folder / name for name in labels if labels[name] in empty)
        raise ValueError(f"{argument}: no images in {named}")
    check_formats((path for path, _ in samples), argument)


def check_formats(paths: Iterable[str], argument: str) -> None:
    """Check by their suffixes that files can be decoded.

    Args:
        paths: The files.
        argument: What an error calls the argument that they come from.

    Raises:
        ValueError: If one cannot; the message names it.
    """
    for path in paths:
        if not path.lower().endswith(DECODABLE_SUFFIXES):
            raise ValueError(
                f"{argument}: {path} is none of {', '.join(DECODABLE_SUFFIXES)}: convert it or take it away"
            )
