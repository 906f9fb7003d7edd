"""Checkpoints: whether one is whole, and what is in it."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from mhc_vision.stored.checkpoint_schema import check_checkpoint
from mhc_vision.stored.sharded_checkpoints import REST, damage_of_shards, load_sharded
from mhc_vision.stored.weights import short_reason


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, or an empty text.

    A file is read whole, against its checksums; a directory of shards as `damage_of_shards` says.
    """
    if path.is_dir():
        return _damage_of_file(path / REST, path) or damage_of_shards(path)
    return _damage_of_file(path, path)


def _damage_of_file(path: Path, checkpoint: Path) -> str:
    if not path.is_file():
        return "there is no such file" if path == checkpoint else f"it is a directory without {path.name}"
    if not zipfile.is_zipfile(path):
        return "it is cut short, or no checkpoint"
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return f"it cannot be read: {error}"
    if member:
        return f"its part {member} is damaged"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    # a stream of pickled bytes that somebody else wrote fails in as many ways as there are bytes
    except Exception as error:
        return f"torch cannot load it: {short_reason(error)}"
    if not isinstance(content, dict) or "global_step" not in content:
        return "it is no checkpoint of a training run"
    step = content["global_step"]
    return "" if type(step) is int and step >= 0 else f"its global_step is {step!r:.60}, no number of steps"


def load(path: Path) -> dict[str, Any]:
    """A checkpoint whose tensors stay on the disk until they are used; of a directory, see `load_sharded`."""
    if path.is_dir():
        return load_sharded(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `load` gives, looked through by `check_checkpoint`."""
    return check_checkpoint(path, load(path))
