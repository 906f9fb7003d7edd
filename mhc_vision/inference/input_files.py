"""Files that may be images: which there are."""

import os
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.checks import first_few
from mhc_vision.data.folders import walk_files


def list_files(paths: Sequence[Path]) -> list[str]:
    """The files among `paths`, and all files in the folders among them and in folders of these.

    What a folder holds is sorted, and as in `walk_files`. Nothing is said of what the files are.

    Raises:
        ValueError: If a path is missing, a folder cannot be listed, or there is no file at all.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"images: got {first_few(missing)}, expected files or folders that are there")
    files: list[str] = []
    for path in paths:
        files.extend(_files_under(path) if path.is_dir() else [str(path)])
    if not files:
        raise ValueError(f"images: got no files in {first_few(paths)}, expected some that are not hidden")
    return files


def check_some_readable(files: Sequence[str], unreadable: Sequence[str]) -> None:
    """Raise ValueError unless some files can be read.

    Args:
        files: All of them.
        unreadable: What is wrong with each one that cannot.
    """
    if len(unreadable) == len(files):
        raise ValueError("\n".join([f"images: none of the {len(files)} files can be read:", *unreadable]))


def _files_under(folder: Path) -> list[str]:
    return sorted(os.path.join(parent, name) for parent, _, names in walk_files(folder, "images") for name in names)
