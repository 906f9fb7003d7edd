"""What happens to a batch on the device: crop, flip, normalise, erase and mix."""

from collections.abc import Sequence

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torchvision.transforms import v2

from mhc_vision.checks import check_number, check_numbers, check_whole_number


class BatchAugment(nn.Module):
    """Turn a uint8 batch into what the model sees; all but normalising acts in training mode only.

    Args:
        mean: Mean of each channel, for pixels in 0..1.
        std: Standard deviation of each channel, for pixels in 0..1.
        num_classes: Width of the soft targets.
        mixup: Alpha of the Beta distribution of Mixup, 0 for none.
        cutmix: The same for CutMix. If both are given, each batch gets one of them at random.
        erase: Probability that a rectangle of an image, 2 to 33 % of its area, becomes normal noise (arXiv 1708.04896).
        crop_padding: Pixels of padding on each side, from which each image is cropped back to its size at a random
            place (4 is usual for CIFAR); 0 for no crop. The padding has the value of `mean`, which becomes 0.
        hflip: Probability that an image is flipped left to right.

    Raises:
        ValueError: If an argument is out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        erase: float = 0.0,
        crop_padding: int = 0,
        hflip: float = 0.0,
    ) -> None:
        super().__init__()
        check_batch_augment(mean, std, mixup, cutmix, erase, crop_padding, hflip)
        self.erase = erase
        self.crop_padding = crop_padding
        self.hflip = hflip
        # buffers: torchvision's normalize copies mean and std to the GPU each time, and each copy waits for the GPU
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        mixes: list[v2.Transform] = []
        if mixup > 0:
            mixes.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix > 0:
            mixes.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self.mix = v2.RandomChoice(mixes) if mixes else None

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise a batch and, in training mode, crop, flip, erase and mix.

        Args:
            images: (B, C, H, W), uint8.
            labels: (B,), int64.

        Returns:
            Images (B, C, H, W) in fp32, and targets: (B, num_classes) in fp32 if the batch was mixed, else `labels`.
        """
        if self.training and self.crop_padding > 0:
            fill = (255 * self.mean).round().to(images.dtype)
            images = random_crop(images, self.crop_padding, fill)
        if self.training and self.hflip > 0:
            images = random_hflip(images, self.hflip)
        # in place: on a CPU, fresh memory for each step costs three times the arithmetic
        images = images.float().div_(255).sub_(self.mean).div_(self.std)
        if self.training and self.erase > 0:
            images = RandomErasing(self.erase, mode="pixel", device=images.device)(images)
        if self.training and self.mix is not None:
            images, labels = self.mix(images, labels)
        return images, labels


def check_batch_augment(
    mean: Sequence[float],
    std: Sequence[float],
    mixup: float,
    cutmix: float,
    erase: float,
    crop_padding: int = 0,
    hflip: float = 0.0,
    in_chans: int | None = None,
) -> None:
    """Check the options of `BatchAugment`, which needs the number of classes, before the files that tell it are listed.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_numbers("mean", mean, length=in_chans)
    check_numbers("std", std, length=len(mean), above=0)
    for name, value in (("mixup", mixup), ("cutmix", cutmix)):
        check_number(name, value, at_least=0)
    for name, value in (("erase", erase), ("hflip", hflip)):
        check_number(name, value, at_least=0, at_most=1)
    check_whole_number("crop_padding", crop_padding, at_least=0)


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
