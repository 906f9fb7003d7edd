"""Packing an image folder into litdata's chunks."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from mhc_vision.atomic_files import json_text, new_directory, replace_text
from mhc_vision.data.decode import decode_rgb_bytes
from mhc_vision.data.image_folder import find_classes, list_images
from mhc_vision.data.packed import DESCRIPTION_FILE, SPLITS

CHUNK_BYTES = 64 * 2**20  # as litdata advises: few files, and a download of one takes seconds


def pack_folder(source: Path, destination: Path, check: bool = False) -> dict[str, Any]:
    """Write the images in `source/train/<class>/` and `source/val/<class>/` as chunks of 64 MB.

    The files' bytes are stored as they are, with the name in `source` and the label. `destination` appears when it is
    complete.

    Args:
        source: The image folder.
        destination: A folder that does not exist.
        check: Decode each image first.

    Returns:
        What `packed.json` says: `class_names`, and `num_images` and `num_bytes` of each split.

    Raises:
        ImportError: If litdata is missing.
        ValueError: If the source is no image folder, the destination exists or cannot be made, or a file is empty,
            unreadable or, with `check`, broken; the message names it. Nothing is left behind.
    """
    try:
        import litdata  # noqa: F401
    except ImportError as error:
        raise ImportError("packing needs litdata: pip install 'mhc_vision[litdata]'") from error
    if destination.exists():
        raise ValueError(f"destination: {destination} exists already")
    class_names = find_classes(source)
    splits = {split: list_images(source / split, v2.Identity()) for split in SPLITS}
    description: dict[str, Any] = {"class_names": class_names, "num_images": {}, "num_bytes": {}}
    with new_directory(destination) as folder:
        for split, images in splits.items():
            description["num_images"][split] = len(images)
            samples = _read_samples(images, source, check)
            description["num_bytes"][split] = _write_chunks(folder / split, _shown(samples, split, len(images)))
        replace_text(folder / DESCRIPTION_FILE, json_text(description, indent=2) + "\n")
    return description


def _read_samples(images: ImageFolder, source: Path, check: bool) -> Iterator[tuple[bytes, bytes, int]]:
    for path, label in images.samples:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from error
        if not content:
            raise ValueError(f"cannot pack {path}: it is empty")
        if check:
            decode_rgb_bytes(content, path)
        # bytes, as litdata would replace a text that is the path of a file by the file
        yield os.fsencode(Path(path).relative_to(source)), content, label


def _write_chunks(folder: Path, samples: Iterable[tuple[bytes, bytes, int]]) -> int:
    """Write samples in their order, and return how many bytes their images have."""
    from litdata.streaming import Cache

    folder.mkdir()
    num_bytes = 0
    cache = Cache(str(folder), chunk_bytes=CHUNK_BYTES)
    for index, sample in enumerate(samples):
        cache[index] = sample
        num_bytes += len(sample[1])
    cache.done()
    cache.merge()
    return num_bytes


def _shown(samples: Iterable[Any], split: str, total: int) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(samples, desc=f"pack {split}", total=total, unit="image")
