"""What connections contribute, from the losses of single images with the maps as they are and at their start."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.checks import check_choice
from mhc_vision.contribution import Contribution
from mhc_vision.segmentation_scores import pixel_losses


def image_losses(kind: str, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of each image, (B,).

    Args:
        kind: `"ce"` (softmax cross-entropy) or `"bce"` (mean over classes of a sigmoid for each, where every class
            present counts as fully present), as a model trains with.
        logits: (B, K), or of pixels (B, K, H, W), whose loss is cross-entropy.
        targets: Class indices (B,) or class probabilities (B, K), or a class in each pixel (B, H, W).

    Raises:
        ValueError: If `kind` is unknown.
    """
    check_choice("loss", kind, ("ce", "bce"))
    if logits.ndim == 4:
        return pixel_losses(logits, targets)
    if kind == "ce":
        return F.cross_entropy(logits, targets, reduction="none")
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[-1])
    return F.binary_cross_entropy_with_logits(logits, (targets > 0).to(logits.dtype), reduction="none").mean(-1)


class LossDifferences:
    """Collects the difference of the two losses of each image, batch after batch; keeps 4 bytes for each.

    Args:
        kind: Of the loss, as in `image_losses`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._parts: list[Tensor] = []

    def add(self, logits: Tensor, logits_at_start: Tensor, targets: Tensor) -> None:
        """Take a batch: logits (B, K) of the model as it is and with its maps at their start, and targets."""
        now, start = (image_losses(self._kind, some.float(), targets) for some in (logits, logits_at_start))
        self._parts.append(start - now)

    def moments(self) -> Tensor:
        """(3,), fp64, on the CPU: number of images, sum of the differences, sum of their squares."""
        differences = torch.cat(self._parts or [torch.empty(0)]).cpu().double()
        count = differences.new_tensor(len(differences))
        return torch.stack([count, differences.sum(), differences.square().sum()])


def contribution_of(moments: Tensor) -> Contribution:
    """Mean and standard error from `LossDifferences.moments`, or from their sum over processes."""
    count, total, squares = moments.tolist()
    mean = total / count if count else math.nan
    if count < 2 or not math.isfinite(mean):
        return Contribution(mean, math.nan)
    variance = max(0.0, squares / count - mean**2) * count / (count - 1)
    return Contribution(mean, math.sqrt(variance / count))
