"""The images that a model is evaluated on, each once, with those that cannot be read told apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from torchvision.transforms import v2

from mhc_vision.data.decode import DECODABLE_SUFFIXES, decode_rgb
from mhc_vision.data.folder_labels import shown

_SPLITS = ("val", "test")


def evaluation_folder(folder: Path) -> Path:
    """`folder/val` or `folder/test`, the first that is there, else `folder` itself.

    Raises:
        ValueError: If it is no folder, or has neither but `train/`.
    """
    if not folder.is_dir():
        raise ValueError(f"folder: {folder} is {'not a folder' if folder.exists() else 'missing'}")
    for split in _SPLITS:
        if (folder / split).is_dir():
            return folder / split
    if (folder / "train").is_dir():
        raise ValueError(f"folder: {folder} has train/, but no val/ or test/ to evaluate on")
    return folder


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder`, hidden ones left out."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def list_class_images(folder: Path, labels: Mapping[str, int]) -> tuple[list[str], list[int]]:
    """The image files under each class folder, and their labels.

    Args:
        folder: Has the class folders.
        labels: Label of each class folder by name.

    Raises:
        ValueError: If a class has no images or a file has a format that cannot be decoded.
    """
    samples = make_dataset(str(folder), dict(labels), extensions=IMG_EXTENSIONS, allow_empty=True)
    if empty := set(labels.values()) - {label for _, label in samples}:
        raise ValueError(f"folder: no images in {shown(folder / name for name in labels if labels[name] in empty)}")
    paths = [path for path, _ in samples]
    _check_formats(paths)
    return paths, [label for _, label in samples]


def list_flat_images(folder: Path) -> list[str]:
    """The image files in `folder` itself, sorted.

    Raises:
        ValueError: If there are none, or a file has a format that cannot be decoded.
    """
    paths = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in IMG_EXTENSIONS)
    if not paths:
        raise ValueError(f"folder: {folder} has neither class folders nor images")
    _check_formats(paths)
    return paths


class EvaluationImages(Dataset):
    """Gives (index, image), where the image of a file that cannot be read is the text of the error.

    Args:
        paths: Image files.
        transform: From uint8 (3, H, W) of any size to the model's size.
    """

    def __init__(self, paths: Sequence[str], transform: v2.Transform) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, self.transform(decode_rgb(self.paths[index]))
        except ValueError as error:
            return index, str(error)


def collate_readable(samples: Sequence[tuple[int, Tensor | str]]) -> tuple[Tensor, Tensor, list[str]]:
    """Indices (B,) and images uint8 (B, 3, H, W) of the readable samples, and the errors of the others."""
    images = [(index, image) for index, image in samples if isinstance(image, Tensor)]
    errors = [image for _, image in samples if isinstance(image, str)]
    indices = torch.tensor([index for index, _ in images], dtype=torch.int64)
    batch = torch.stack([image for _, image in images]) if images else torch.empty(0, dtype=torch.uint8)
    return indices, batch, errors


def _check_formats(paths: Sequence[str]) -> None:
    for path in paths:
        if not path.lower().endswith(DECODABLE_SUFFIXES):
            raise ValueError(f"folder: {path} is none of {', '.join(DECODABLE_SUFFIXES)}: convert it or take it away")
