"""Scores of segmentation, all from one confusion matrix of pixels, and the loss of single images."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from mhc_vision.finite import finite_rows

IGNORED = 255
"""Value of mask pixels that are of no class: no loss, no score counts them."""


class PixelConfusion(MulticlassConfusionMatrix):
    """Counts pixels by class (rows) and prediction (columns); of an image with logits not finite, all are wrong.

    Args:
        num_classes: Number of classes, two at least.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, ignore_index=IGNORED, validate_args=False, **kwargs)

    def update(self, logits: Tensor, masks: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: (B, num_classes, h, w), resized to the masks where these are of another size.
            masks: (B, H, W), int64, classes or `IGNORED`.
        """
        predicted = resized(logits, masks).argmax(1)
        wrong = (masks + 1) % self.num_classes
        super().update(torch.where(finite_rows(logits).view(-1, 1, 1), predicted, wrong), masks)

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Right pixels, pixels of the class and pixels predicted as it, each (num_classes,) in fp64."""
        matrix = super().compute().double()
        return matrix.diagonal(), matrix.sum(1), matrix.sum(0)

    def class_iou(self) -> Tensor:
        """Intersection over union of each class, (num_classes,); NaN where it is neither there nor predicted."""
        right, there, predicted = self.counts()
        return right / (there + predicted - right)


class MeanIoU(PixelConfusion):
    """Mean intersection over union of the classes that are there or predicted (Pascal VOC's measure), in [0, 1]."""

    def compute(self) -> Tensor:
        """The score; NaN of no pixels."""
        return self.class_iou().nanmean()


class MeanDice(PixelConfusion):
    """Mean Dice coefficient, 2 |A ∩ B| / (|A| + |B|), of the same classes, in [0, 1]."""

    def compute(self) -> Tensor:
        """The score; NaN of no pixels."""
        right, there, predicted = self.counts()
        return (2 * right / (there + predicted)).nanmean()


class PixelAccuracy(PixelConfusion):
    """Part of the pixels whose class is predicted, in [0, 1]."""

    def compute(self) -> Tensor:
        """The score; NaN of no pixels."""
        right, there, _ = self.counts()
        return right.sum() / there.sum()


def segmentation_scores(num_classes: int, prefix: str | None = None) -> MetricCollection:
    """`mean_iou`, `mean_dice` and `pixel_accuracy`, which share one confusion matrix."""
    scores = {"mean_iou": MeanIoU, "mean_dice": MeanDice, "pixel_accuracy": PixelAccuracy}
    return MetricCollection(
        {name: score(num_classes) for name, score in scores.items()}, prefix=prefix, compute_groups=[list(scores)]
    )


def pixel_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of each image (B,): the mean over its pixels that are not ignored, 0 without any.

    Args:
        logits: (B, num_classes, h, w), resized to the masks where these are of another size.
        masks: (B, H, W), int64, classes or `IGNORED`.
    """
    losses = F.cross_entropy(resized(logits, masks).float(), masks, ignore_index=IGNORED, reduction="none")
    return losses.flatten(1).sum(1) / (masks != IGNORED).flatten(1).sum(1).clamp_min(1)


def resized(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits (B, num_classes, h, w) at the size of masks (B, H, W), bilinearly."""
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits
    return F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
