"""Datasets that `mhc-vision pack` wrote: few large files in place of a million small ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.data.decode import decode_rgb_bytes
from mhc_vision.data.packed_chunks import INDEX_FILE, ChunkReader
from mhc_vision.data.packed_remote import RemoteFolder, default_cache, is_url

DESCRIPTION_FILE = "packed.json"
SPLITS = ("train", "val")


class PackedDataModule(AugmentedDataModule):
    """An image folder packed by `mhc-vision pack`, on a disk or at a URL.

    The pixels, the order and the transforms are those of `ImageFolderDataModule` on the folder that was packed, with
    the same options and seed. Samples are read one by one, each with one read of its bytes: there is no shuffle window.

    From a URL each chunk of 64 MB is downloaded when its first sample is needed, and stays: in its first epoch a run
    fetches the whole dataset to `cache`, which must have the space.

    Args:
        root: Folder that was written, or its URL: `s3://`, `gs://`, `r2://`, `azure://` or `hf://`.
        cache: Local folder for what comes from a URL, `~/.cache/mhc_vision` by default.
        augmentation: The options of `AugmentedDataModule`.

    Raises:
        ImportError: If root is a URL and litdata is missing.
        ValueError: If an argument is out of range, root is no packed dataset or the cache has too little space.
    """

    def __init__(self, root: str, cache: str | None = None, **augmentation: Any) -> None:
        super().__init__(**augmentation)
        remote = RemoteFolder(root, Path(cache) if cache else default_cache()) if is_url(root) else None
        folder = remote.local if remote else Path(root)
        if remote:
            for name in (DESCRIPTION_FILE, *(f"{split}/{INDEX_FILE}" for split in SPLITS)):
                remote.fetch(name)
        description = load_description(folder)
        train, val = (ChunkReader(folder / split) for split in SPLITS)
        for split, chunks in zip(SPLITS, (train, val), strict=True):
            if len(chunks) != description["num_images"][split]:
                raise ValueError(
                    f"root: {folder / split} has {len(chunks)} images, but {DESCRIPTION_FILE} says "
                    f"{description['num_images'][split]}"
                )
        if remote:
            remote.check_space(
                {
                    f"{chunks.folder.name}/{file}": size
                    for chunks in (train, val)
                    for file, size in zip(chunks.files, chunks.sizes, strict=True)
                }
            )
        self.use(
            description["class_names"],
            PackedImages(train, self.to_train, remote),
            PackedImages(val, self.to_eval, remote),
        )


class PackedImages(Dataset):
    """The samples of a folder of chunks: (image uint8 (3, H, W) after `transform`, label).

    Args:
        chunks: Where they are.
        transform: From uint8 (3, H, W) of any size to the model's size.
        remote: Where missing chunks come from.
    """

    def __init__(
        self, chunks: ChunkReader, transform: Callable[[Tensor], Tensor], remote: RemoteFolder | None = None
    ) -> None:
        self.chunks = chunks
        self.transform = transform
        self.remote = remote

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A sample.

        Raises:
            ValueError: If it cannot be read or decoded; the message has the name of its file.
        """
        if self.remote is not None:
            self.remote.fetch(f"{self.chunks.folder.name}/{self.chunks.files[self.chunks.chunk_of(index)]}")
        name, content, label = self.chunks.read(index)
        return self.transform(decode_rgb_bytes(content, name)), label


def load_description(folder: Path) -> dict[str, Any]:
    """What `packed.json` says: `class_names`, and `num_images` and `num_bytes` of each split.

    Raises:
        ValueError: If there is no such file or it says something else.
    """
    path = folder / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"root: {folder} is no dataset that `mhc-vision pack` wrote: {error}") from error
    says = description if isinstance(description, dict) else {}
    class_names, num_images = says.get("class_names"), says.get("num_images")
    if not isinstance(class_names, list) or not isinstance(num_images, dict) or not num_images.keys() >= set(SPLITS):
        raise ValueError(f"root: {path} does not have class_names, and num_images of {' and '.join(SPLITS)}")
    return description
