"""Transforms of single images, all on uint8 tensors (3, H, W)."""

import math
from typing import Any

from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from mhc_vision.checks import check_choice, check_number, check_numbers, check_whole_number

INTERPOLATIONS = {mode.value: mode for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)}
CROP_MODES = ("center", "squash")
MOST_ELONGATED = 32
"""Longer over shorter side of an image: one beyond that could fill the memory once resized."""
MAX_MAGNITUDE = 30  # v2.RandAugment divides each operation's range into 31 magnitudes

_GREY = 128  # what rotated and translated images are filled with: zero after normalising with mean 0.5


def train_transform(
    img_size: int,
    interpolation: str,
    scale: tuple[float, float],
    hflip: float,
    randaugment_ops: int,
    randaugment_magnitude: int,
    three_augment: bool = False,
    color_jitter: float = 0.0,
) -> v2.Compose:
    """Random crop, flip, RandAugment or 3-Augment, and colour jitter.

    Args:
        img_size: Height and width of the result, in pixels.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        scale: Smallest and largest part of the image's area that a crop covers.
        hflip: Probability of a horizontal flip.
        randaugment_ops: Number of RandAugment operations per image, 0 for none.
        randaugment_magnitude: Their strength, 0 to 30.
        three_augment: One of grey, solarised and blurred for each image (DeiT-III, arXiv 2204.07118).
        color_jitter: Largest relative change of brightness, contrast and saturation, 0 for none.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check_size(img_size, interpolation)
    check_numbers("train_scale", scale, length=2, above=0, at_most=1)
    if scale[0] > scale[1]:
        raise ValueError(f"train_scale: got {scale}, expected the smaller number first")
    check_number("hflip", hflip, at_least=0, at_most=1)
    check_whole_number("randaugment_ops", randaugment_ops, at_least=0)
    check_whole_number("randaugment_magnitude", randaugment_magnitude, at_least=0, at_most=MAX_MAGNITUDE)
    if three_augment and randaugment_ops > 0:
        raise ValueError(f"randaugment_ops: got {randaugment_ops}, expected 0: three_augment takes its place")
    check_number("color_jitter", color_jitter, at_least=0)
    mode = INTERPOLATIONS[interpolation]
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(img_size, scale=scale, interpolation=mode, antialias=True),
        v2.RandomHorizontalFlip(hflip),
    ]
    if randaugment_ops > 0:
        steps.append(
            v2.RandAugment(
                num_ops=randaugment_ops,
                magnitude=randaugment_magnitude,
                interpolation=InterpolationMode.BILINEAR,
                fill=[_GREY] * 3,
            )
        )
    if three_augment:
        # the published code blurs with Pillow, by a radius of 0.1 to 2, and solarises at 128
        blur = v2.GaussianBlur(kernel_size=9, sigma=(0.1, 2.0))
        steps.append(v2.RandomChoice([v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), blur]))
    if color_jitter > 0:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    return v2.Compose(steps)


def eval_transform(img_size: int, interpolation: str, crop_pct: float, crop_mode: str = "center") -> v2.Compose:
    """Resize and centre crop, with timm's rule for the size: the shorter side becomes floor(img_size / crop_pct).

    Args:
        img_size: Height and width of the result, in pixels.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        crop_pct: Part of the resized image's shorter side that the crop covers.
        crop_mode: "center", or "squash": both sides become that long, whatever the image's shape.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check_size(img_size, interpolation)
    check_choice("crop_mode", crop_mode, CROP_MODES)
    check_number("crop_pct", crop_pct, above=0, at_most=1)
    mode = INTERPOLATIONS[interpolation]
    side = math.floor(img_size / crop_pct)
    if crop_mode == "squash":
        resize = [v2.Resize([side, side], interpolation=mode, antialias=True)]
    else:
        resize = [_CropElongated(), v2.Resize(side, interpolation=mode, antialias=True)]
    return v2.Compose([*resize, v2.CenterCrop(img_size)])


class _CropElongated(v2.Transform):
    """Cuts off the ends of an image more elongated than MOST_ELONGATED, which a centre crop leaves out anyway."""

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        longest = MOST_ELONGATED * min(inpt.shape[-2:])
        height, width = (min(side, longest) for side in inpt.shape[-2:])
        return v2.functional.center_crop(inpt, [height, width])


def _check_size(img_size: int, interpolation: str) -> None:
    check_whole_number("img_size", img_size, at_least=1)
    check_choice("interpolation", interpolation, INTERPOLATIONS)
