"""Accuracies of training, validation, test and probes, all by one rule for logits that are not finite."""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mhc_vision.finite import finite_rows, right_rows


class ClassAccuracy(Metric):
    """Part of the samples whose label is among the k largest logits; a row that is not finite is wrong.

    Args:
        num_classes: Number of classes.
        top_k: k.
        average: `"micro"`: over all samples; `"macro"`: the mean over the classes that occur among the labels
            (scikit-learn's `balanced_accuracy_score`), whatever is predicted.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    right: Tensor
    total: Tensor

    def __init__(
        self, num_classes: int, top_k: int = 1, average: Literal["micro", "macro"] = "micro", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.top_k = top_k
        self.average = average
        for name in ("right", "total"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: (B, num_classes).
            labels: (B,), int64.
        """
        # counts that add up in any order: the result does not depend on batches or processes
        right = right_rows(logits, labels, self.top_k).to(torch.int64)
        self.right.scatter_add_(0, labels, right)
        self.total.scatter_add_(0, labels, torch.ones_like(right))

    def compute(self) -> Tensor:
        """The accuracy in [0, 1]; NaN of no samples."""
        if self.average == "micro":
            return self.right.sum() / self.total.sum()
        occurs = self.total > 0
        shares = self.right / self.total.clamp_min(1)
        return torch.where(occurs, shares, 0.0).sum() / occurs.sum()


class NotFiniteRows(Metric):
    """How many rows of logits were not finite."""

    full_state_update = False
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Adds a batch of logits, (B, num_classes)."""
        self.count += (~finite_rows(logits)).sum()

    def compute(self) -> Tensor:
        """Their number."""
        return self.count


def accuracies(num_classes: int, *, mean_per_class: bool = False, prefix: str | None = None) -> MetricCollection:
    """`top1`, `top5` with more than five classes, and, if asked for, `mean_per_class`.

    Args:
        num_classes: Number of classes.
        mean_per_class: Add the mean of the accuracies of the classes that occur.
        prefix: Of their names.
    """
    by_name: dict[str, Metric | MetricCollection] = {"top1": ClassAccuracy(num_classes)}
    if num_classes > 5:
        by_name["top5"] = ClassAccuracy(num_classes, top_k=5)
    if mean_per_class:
        by_name["mean_per_class"] = ClassAccuracy(num_classes, average="macro")
    # torchmetrics would merge metrics whose states agree after one batch, as top1 and top5 of NaN do
    return MetricCollection(by_name, prefix=prefix, compute_groups=False)
