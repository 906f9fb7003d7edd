"""The images that a model is evaluated on, each once, with those that cannot be read told apart."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from mhc_vision.data.decode import decode_rgb
from mhc_vision.data.folders import check_formats, images_in

_SPLITS = ("val", "test")


def evaluation_folder(folder: Path) -> Path:
    """`folder/val` or `folder/test`, the first that is there, else `folder` itself.

    Raises:
        ValueError: If it is no folder, or has neither but `train/`.
    """
    if not folder.is_dir():
        raise ValueError(
            f"folder: got {folder}, which is {'not a folder' if folder.exists() else 'missing'}, expected a folder"
        )
    for split in _SPLITS:
        if (folder / split).is_dir():
            return folder / split
    if (folder / "train").is_dir():
        raise ValueError(f"folder: got {folder} with train/ only, expected val/ or test/ to evaluate on")
    return folder


def list_flat_images(folder: Path) -> list[str]:
    """The image files in `folder` itself, sorted.

    Raises:
        ValueError: If there are none, or a file has a format that cannot be decoded.
    """
    paths = images_in(folder)
    if not paths:
        raise ValueError(f"folder: got {folder} without class folders and images, expected some")
    check_formats(paths, "folder")
    return paths


class EvaluationImages(Dataset):
    """Gives (index, image), where the image of a file that cannot be read is the text of the error.

    Args:
        paths: Image files.
        transform: From uint8 (3, H, W) of any size to the model's size.
        decode: Reads a file as (3, H, W), uint8, and raises ValueError where it cannot.
    """

    def __init__(
        self, paths: Sequence[str], transform: v2.Transform, decode: Callable[[str], Tensor] = decode_rgb
    ) -> None:
        self.paths = paths
        self.transform = transform
        self.decode = decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, self.transform(self.decode(self.paths[index]))
        except ValueError as error:
            return index, str(error)


def collate_readable(samples: Sequence[tuple[int, Tensor | str]]) -> tuple[Tensor, Tensor, list[str]]:
    """Indices (B,) and images uint8 (B, 3, H, W) of the readable samples, and the errors of the others."""
    images = [(index, image) for index, image in samples if isinstance(image, Tensor)]
    errors = [image for _, image in samples if isinstance(image, str)]
    indices = torch.tensor([index for index, _ in images], dtype=torch.int64)
    batch = torch.stack([image for _, image in images]) if images else torch.empty(0, dtype=torch.uint8)
    return indices, batch, errors
