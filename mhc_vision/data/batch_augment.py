"""What happens to a batch on the device: normalise, erase and mix."""

from collections.abc import Sequence

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torchvision.transforms import v2


class BatchAugment(nn.Module):
    """Turn a uint8 batch into what the model sees; erasing and mixing act in training mode only.

    Args:
        mean: Mean of each channel, for pixels in 0..1.
        std: Standard deviation of each channel, for pixels in 0..1.
        num_classes: Width of the soft targets.
        mixup: Alpha of the Beta distribution of Mixup, 0 for none.
        cutmix: The same for CutMix. If both are given, each batch gets one of them at random.
        erase: Probability that a rectangle of an image, 2 to 33 % of its area, becomes normal noise (arXiv 1708.04896).

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
    ) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean and std must have one value a channel each, got mean={mean} and std={std}")
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {std}")
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise ValueError(f"{name} must be 0 (off) or positive, got {value}")
        if not 0 <= erase <= 1:
            raise ValueError(f"erase must be a probability, got {erase}")
        self.erase = erase
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
        """Normalise a batch and, in training mode, erase and mix.

        Args:
            images: (B, C, H, W), uint8.
            labels: (B,), int64.

        Returns:
            Images (B, C, H, W) in fp32, and targets: (B, num_classes) in fp32 if the batch was mixed, else `labels`.
        """
        # in place: on a CPU, fresh memory for each step costs three times the arithmetic
        images = images.float().div_(255).sub_(self.mean).div_(self.std)
        if self.training and self.erase > 0:
            images = RandomErasing(self.erase, mode="pixel", device=images.device)(images)
        if self.training and self.mix is not None:
            images, labels = self.mix(images, labels)
        return images, labels
