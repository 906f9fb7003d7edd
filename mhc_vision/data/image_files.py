"""Files that may be images: which there are, and what is in them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from mhc_vision.data.decode import decode_any_bytes
from mhc_vision.data.naming import first_few


def list_files(paths: Sequence[Path]) -> list[str]:
    """The files among `paths`, and all files in the folders among them and in folders of these.

    What a folder holds is sorted; hidden files and folders in it are left out. Links are followed, each folder once.
    Nothing is said of what the files are.

    Raises:
        ValueError: If a path is missing, a folder cannot be listed, or there is no file at all.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"images: {first_few(missing)}: no such file or folder")
    files: list[str] = []
    for path in paths:
        files.extend(sorted(_files_under(path)) if path.is_dir() else [str(path)])
    if not files:
        raise ValueError(f"images: {first_few(paths)}: no files, hidden ones left out")
    return files


def decode_file(path: str) -> Tensor:
    """Read an image of any format that Pillow knows; JPEG, PNG and WebP are decoded as everywhere in this package.

    Args:
        path: The file, of whatever kind.

    Returns:
        (3, H, W), uint8.

    Raises:
        ValueError: If the file cannot be read or decoded; the message names it, and says why.
    """
    # a pipe would keep its reader waiting
    if not os.path.isfile(path):
        raise ValueError(f"cannot read {path}: {'no regular file' if os.path.exists(path) else 'missing'}")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return decode_any_bytes(content, path)


def _files_under(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"images: {error.filename} cannot be listed: {error.strerror}") from error

    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        # links may lead back up
        if os.path.realpath(parent) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(parent))
        # in the order of their names, so that of two links to a folder it is always the same that counts
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))
