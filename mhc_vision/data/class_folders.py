"""Folders with one folder a class: which classes there are, and the image files of each."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mhc_vision.data.decode import DECODABLE_SUFFIXES
from mhc_vision.data.file_listing import folders_in, is_image, walk_files
from mhc_vision.data.naming import first_few


def class_folders(folder: Path, argument: str = "folder") -> list[str]:
    """Sorted names of the folders in `folder`; hidden ones, such as `.ipynb_checkpoints`, are no classes.

    Args:
        folder: Has the class folders.
        argument: What an error calls the argument that the folder comes from.

    Raises:
        ValueError: If it cannot be listed.
    """
    return folders_in(folder, argument)


def list_class_images(folder: Path, labels: Mapping[str, int], argument: str = "folder") -> tuple[list[str], list[int]]:
    """The image files under each class folder (see `walk_files`) and their labels, by class name and path.

    Args:
        folder: Has the class folders.
        labels: Label of each class folder by name.
        argument: What an error calls the argument that the folder comes from.

    Raises:
        ValueError: If a class has no images, a file has a format that cannot be decoded, or links make one folder part
            of two classes.
    """
    paths: list[str] = []
    found: list[int] = []
    class_of: dict[str, str] = {}
    empty = []
    for name in sorted(labels):
        count = len(paths)
        for directory, real, files in walk_files(folder / name, argument):
            if class_of.setdefault(real, name) != name:
                raise ValueError(
                    f"{argument}: links make {real} part of the classes {class_of[real]} and {name} in {folder}, "
                    "expected one class an image; take a link away"
                )
            paths += [os.path.join(directory, file) for file in files if is_image(file)]
        found += [labels[name]] * (len(paths) - count)
        if len(paths) == count:
            empty.append(folder / name)
    if empty:
        raise ValueError(f"{argument}: no images in {first_few(empty)}")
    check_formats(paths, argument)
    return paths, found


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
