"""Mask files to classes of pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import UnidentifiedImageError
from scipy.io import loadmat
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from mhc_vision.checks import first_few
from mhc_vision.data.decode import decode_file, open_unconverted
from mhc_vision.data.transforms import MOST_ELONGATED
from mhc_vision.segmentation_scores import IGNORED

_LARGEST = 255


@dataclass(frozen=True)
class MaskValues:
    """What the numbers in mask files mean.

    Attributes:
        class_names: Name of each class, in the order of the labels.
        labels: From a number in a file to its label, or to `IGNORED`.
    """

    class_names: tuple[str, ...]
    labels: Mapping[int, int]

    def decode(self, path: str) -> Tensor:
        """Reads a mask of one channel: grey, of indices into a palette, or a `.mat` file of SBD.

        Returns:
            (H, W), int64, labels or `IGNORED`.

        Raises:
            ValueError: If the file cannot be read, is a picture in colour, holds a number that means nothing here, or
                has no pixel of any class; the message names it.
        """
        stored = _read(path)
        table = np.full(_LARGEST + 1, -1)
        table[list(self.labels)] = list(self.labels.values())
        values = np.unique(stored)
        if unknown := [int(value) for value in values if not 0 <= value <= _LARGEST or table[value] < 0]:
            raise ValueError(
                f"mask: {path} has pixels of {first_few(unknown)}, expected the numbers of classes, "
                f"{first_few(sorted(self.labels))}"
            )
        if (table[values] == IGNORED).all():
            raise ValueError(f"mask: {path} has no pixel of a class, expected some; take image and mask away")
        return torch.from_numpy(table[stored])


def class_values(class_names: Sequence[str], first: int = 0, ignored: Sequence[int] = (IGNORED,)) -> MaskValues:
    """Classes that files number in their order.

    Args:
        class_names: Their names.
        first: The first one's number in a file.
        ignored: Numbers of pixels of no class.
    """
    names = tuple(class_names)
    labels = {first + label: label for label in range(len(names))}
    return MaskValues(names, {**labels, **dict.fromkeys(ignored, IGNORED)})


def _read(path: str) -> Any:
    """The whole numbers in a file, (H, W)."""
    try:
        if path.endswith(".mat"):
            # Semantic Boundaries Dataset
            stored = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
            kind = f"an array of {stored.dtype}, {' x '.join(map(str, stored.shape))}"
        else:
            with open_unconverted(path) as image:
                stored, kind = np.asarray(image), f"a picture of mode {image.mode}"
    except UnidentifiedImageError as error:
        # its text has the address of a buffer
        raise ValueError(f"mask: cannot read {path}: got no image or an unknown format") from error
    except Exception as error:  # readers fail in as many ways as there are formats
        raise ValueError(f"mask: cannot read {path}: {error}") from error
    if stored.ndim != 2 or stored.dtype.kind not in "biu":
        raise ValueError(
            f"mask: {path} is {kind}, expected one channel with the number of a class in each pixel "
            "(a grey or palette PNG); replace its colours by such numbers"
        )
    return stored.astype(np.int64)


class MaskedImages(Dataset):
    """Pairs of files as (image uint8 (3, H, W), mask int64 (H, W)).

    Args:
        images: Files of any format that Pillow reads.
        masks: The file of each one's mask.
        values: What the masks hold.
        transform: From image and mask, as torchvision's `tv_tensors`, to those of a sample.
    """

    def __init__(self, images: Sequence[str], masks: Sequence[str], values: MaskValues, transform: Any) -> None:
        self.images, self.masks = list(images), list(masks)
        self.values = values
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = decode_file(self.images[index]), self.values.decode(self.masks[index])
        check_elongation(image, self.images[index])
        if image.shape[-2:] != mask.shape:
            sizes = [" x ".join(map(str, shape)) for shape in (mask.shape, image.shape[-2:])]
            raise ValueError(
                f"mask: {self.masks[index]} has {sizes[0]} pixels, expected {sizes[1]} as {self.images[index]}"
            )
        return self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))


def check_elongation(image: Tensor, path: str) -> None:
    """Raise ValueError if a side of an image (3, H, W) is so long that it would fill the memory once resized."""
    shorter, longer = sorted(image.shape[-2:])
    if longer > MOST_ELONGATED * shorter:
        raise ValueError(
            f"image: {path} has {image.shape[-2]} x {image.shape[-1]} pixels, expected a longer side of at most "
            f"{MOST_ELONGATED} times the shorter one; cut it into pieces"
        )


def paired_files(images: Sequence[str], masks: Sequence[str], where: Path) -> tuple[list[str], list[str]]:
    """Images and masks of the same names but for their suffixes, in the order of names.

    Args:
        images: Files of images.
        masks: Files of masks.
        where: What an error names.

    Raises:
        ValueError: If there are none, one has no partner, or two have one name.
    """
    of_images, of_masks = ({Path(path).stem: path for path in paths} for paths in (images, masks))
    if twice := [path for path in (*images, *masks) if path not in {*of_images.values(), *of_masks.values()}]:
        raise ValueError(
            f"root: {where}: got other files of the names of {first_few(twice)}, expected one of each name"
        )
    if lone := of_images.keys() ^ of_masks.keys():
        raise ValueError(f"root: {where}: got {first_few(sorted(lone))} without image or mask, expected both of each")
    if not of_images:
        raise ValueError(f"root: {where}: got no images, expected some, with a mask of the same name each")
    names = sorted(of_images)
    return [of_images[name] for name in names], [of_masks[name] for name in names]
