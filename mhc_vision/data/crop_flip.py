"""Shifted crops and flips of a whole batch at once, each image its own."""

import torch
from torch import Tensor


def padded_crop(images: Tensor, tops: Tensor, lefts: Tensor, padding: int, fill: Tensor) -> Tensor:
    """Pad each image on all sides and crop it back to its size.

    Args:
        images: (B, C, H, W), any dtype.
        tops: (B,), first row of each crop in its padded image, 0 to 2 * padding.
        lefts: (B,), first column.
        padding: Pixels on each side.
        fill: (C,), what the padding is filled with, in the images' dtype.

    Returns:
        (B, C, H, W).
    """
    batch, _, height, width = images.shape
    padded = fill.view(-1, 1, 1).repeat(batch, 1, height + 2 * padding, width + 2 * padding)
    padded[..., padding : padding + height, padding : padding + width] = images
    # (B, C, 2 * padding + 1, 2 * padding + 1, H, W): every crop there is, as a view
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(batch, device=images.device), :, tops, lefts]


def random_crop(images: Tensor, padding: int, fill: Tensor) -> Tensor:
    """`padded_crop` at places that torch's generator draws for each image; arguments as there."""
    tops, lefts = torch.randint(2 * padding + 1, (2, len(images)), device=images.device)
    return padded_crop(images, tops, lefts, padding, fill)


def random_hflip(images: Tensor, probability: float) -> Tensor:
    """Mirror each image (B, C, H, W) left to right, or not, as torch's generator draws for it."""
    flipped = torch.rand(len(images), device=images.device) < probability
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
