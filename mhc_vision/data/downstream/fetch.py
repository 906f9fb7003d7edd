"""Getting a dataset of torchvision's to where it belongs, by download or by hand."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

import torchvision.datasets
from filelock import FileLock

from mhc_vision.checks import first_few
from mhc_vision.data.downstream.spec import TorchvisionSet
from mhc_vision.progress import note


def fetch_missing(name: str, spec: TorchvisionSet, root: Path, download: bool) -> None:
    """See to it that the files of a dataset are there.

    One process fetches at a time; others wait for it. What is there is not written over: where only a part of a
    dataset is there, nothing is fetched.

    Args:
        name: What an error calls the dataset.
        spec: The dataset.
        root: The folder it is in, or will be.
        download: Fetch what is missing.

    Raises:
        ImportError: If fetching needs a package that is missing.
        ValueError: If a file is missing and cannot be fetched; the message says how to place it by hand.
    """
    lock = root / f".{name}.lock"
    reason = "download is false"
    if download and spec.fetch:
        reason = "torchvision does not fetch it" if os.access(root, os.W_OK) else f"{root} cannot be written to"
        # files of a process that is still at work may be there already; then so is its lock
        if (_missing(spec, root) or lock.exists()) and os.access(root, os.W_OK):
            with FileLock(lock):
                missing = _missing(spec, root)
                if set(missing) - set(spec.unfetched):
                    note(f"fetching {name} to {root}")
                    _fetch(name, spec, root, missing)
    elif spec.fetch is None:
        reason = "nothing fetches it"
    if missing := _missing(spec, root):
        raise ValueError(
            f"dataset: got {root} without {first_few(missing)}, expected all of {name}, and {reason}; "
            f"{by_hand(spec, root)}"
        )


def require_packages(name: str, packages: Iterable[str]) -> None:
    """Check that what reading or fetching a dataset imports is there.

    Raises:
        ImportError: If it is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{name} needs {package}: pip install 'mhc-vision[datasets]'")


def by_hand(spec: TorchvisionSet, root: Path) -> str:
    """The end of a message: what to place where."""
    lines = "".join(f"\n    {root / file}" for file in spec.files)
    return f"to place it by hand, take from {spec.source}{lines}" + (f"\n{spec.note}" if spec.note else "")


def _missing(spec: TorchvisionSet, root: Path) -> list[str]:
    return [place for place in spec.places if not (root / place).exists()]


def _fetch(name: str, spec: TorchvisionSet, root: Path, missing: list[str]) -> None:
    present = [place for place in spec.places if place not in missing]
    if present and spec.fetch == "download":
        raise ValueError(
            f"dataset: {name}: got {first_few(present)} in {root}, expected {first_few(missing)} as well, or nothing: "
            f"downloads do not complete a part; move it away to have all of it fetched; {by_hand(spec, root)}"
        )
    require_packages(name, spec.fetch_packages)
    options = {"download": True} if spec.fetch == "download" else {}
    try:
        for split in spec.splits.values():
            getattr(torchvision.datasets, spec.class_name)(str(root), **split.arguments, **options)
    except Exception as error:  # of the network, the archive, the disk: they all end in the same advice
        raise ValueError(f"dataset: {name} cannot be fetched: {error}; {by_hand(spec, root)}") from error
