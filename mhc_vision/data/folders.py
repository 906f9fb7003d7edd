"""What counts below a folder: the one rule of which files are listed, class folders, and the images of each."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from mhc_vision.checks import first_few
from mhc_vision.data.decode import DECODABLE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name are left out, as `._photo.jpg` and `.ipynb_checkpoints` are."""
    return name.startswith(".")


def is_image(path: str | Path) -> bool:
    """Whether a file counts as an image, by its name alone."""
    name = os.path.basename(path)
    return not is_hidden(name) and name.lower().endswith(IMG_EXTENSIONS)


def has_hidden_part(path: str, folder: Path) -> bool:
    """Whether a file or one of the folders on the way to it from `folder` is hidden."""
    return any(map(is_hidden, Path(path).relative_to(folder).parts))


def walk_files(folder: Path, argument: str = "folder", refuse_loops: bool = False) -> list[tuple[str, str, list[str]]]:
    """The folders below `folder`, itself included, and the files in each.

    What is hidden is left out. Links to folders are followed, but for those that lead back up, and each real folder
    counts once, wherever links lead to it from: however links are laid, this comes to an end.

    Args:
        folder: Where to begin; its own name does not matter.
        argument: What an error calls the argument that the folder comes from.
        refuse_loops: Raise an error for a link that leads back up, where others will list the folder after this.

    Returns:
        Path, real path and sorted names of the files of each folder, by path.

    Raises:
        ValueError: If a folder cannot be listed, or as above.
    """
    start = os.path.realpath(folder)
    visited = {start}
    found: list[tuple[str, str, list[str]]] = []
    pending = [(str(folder), start)]
    while pending:
        directory, real = pending.pop()
        files = []
        folders = []
        for entry in _entries(directory, argument):
            if not _is_folder(entry):
                files.append(entry.name)
                continue
            target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            if refuse_loops and _contains(target, real):
                raise ValueError(f"{argument}: got the link {entry.path} back to {target}, expected none; take it away")
            if target not in visited and not _contains(target, start):
                visited.add(target)
                folders.append((entry.path, target))
        found.append((directory, real, files))
        pending += reversed(folders)
    return sorted(found)


def class_folders(folder: Path, argument: str = "folder") -> list[str]:
    """Sorted names of the folders in `folder`; hidden ones, such as `.ipynb_checkpoints`, are no classes.

    Links that lead back up are none, either.

    Args:
        folder: Has the class folders.
        argument: What an error calls the argument that the folder comes from.

    Raises:
        ValueError: If it cannot be listed.
    """
    start = os.path.realpath(folder)
    return [
        entry.name
        for entry in _entries(str(folder), argument)
        if _is_folder(entry) and not (entry.is_symlink() and _contains(os.path.realpath(entry.path), start))
    ]


def images_in(folder: Path, argument: str = "folder") -> list[str]:
    """Paths of the image files in `folder` itself, sorted.

    Raises:
        ValueError: If it cannot be listed.
    """
    return [entry.path for entry in _entries(str(folder), argument) if is_image(entry.name) and not _is_folder(entry)]


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
                    f"{argument}: got links that make {real} part of the classes {class_of[real]} and {name} in "
                    f"{folder}, expected one class per image; take a link away"
                )
            paths += [os.path.join(directory, file) for file in files if is_image(file)]
        found += [labels[name]] * (len(paths) - count)
        if len(paths) == count:
            empty.append(folder / name)
    if empty:
        raise ValueError(f"{argument}: got no images in {first_few(empty)}, expected some of each class")
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
                f"{argument}: got {path}, expected {', '.join(DECODABLE_SUFFIXES)}; convert it or take it away"
            )


def _entries(directory: str, argument: str) -> Iterator["os.DirEntry[str]"]:
    """What is in a folder and not hidden, by name."""
    try:
        with os.scandir(directory) as entries:
            visible = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise ValueError(f"{argument}: {directory} cannot be listed: {error.strerror}") from error
    return iter(sorted(visible, key=lambda entry: entry.name))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # a link to itself: what reads it says so
        return False


def _contains(folder: str, path: str) -> bool:
    """Whether a real path is this folder or lies in it."""
    return (path + os.sep).startswith(folder.rstrip(os.sep) + os.sep)
