"""Metrics that a comparison's report shows: their names, units and digits."""

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric and how it is shown.

    Attributes:
        key: As runs log it.
        name: As a report calls it.
        is_accuracy: In [0, 1], shown in percent, the higher the better; the others are losses in nats.
    """

    key: str
    name: str
    is_accuracy: bool

    @property
    def has_curve(self) -> bool:
        """Whether it is logged as a run goes on; test figures are taken once, at the end."""
        return not self.key.startswith("test/")

    @property
    def scale(self) -> float:
        """What a logged value is multiplied by to be shown."""
        return 100.0 if self.is_accuracy else 1.0

    @property
    def digits(self) -> int:
        """Digits shown after the point."""
        return 2 if self.is_accuracy else 4

    @property
    def label(self) -> str:
        """Its name, and the unit of shown values."""
        return f"{self.name} (%)" if self.is_accuracy else self.name

    @property
    def difference_label(self) -> str:
        """Its name, and the unit of differences of shown values."""
        return f"{self.name} (points)" if self.is_accuracy else self.name

    @property
    def axis_label(self) -> str:
        """Its name, and the unit of shown values, losses included."""
        return self.label if self.is_accuracy else f"{self.name} (nats)"

    def text(self, shown: float) -> str:
        """Its name and a shown value, in a sentence."""
        return f"{self.name} {shown:.{self.digits}f}" + (" %" if self.is_accuracy else "")


VALIDATION_TOP1 = Metric("val/top1", "top-1", True)
VALIDATION_MEAN_IOU = Metric("val/mean_iou", "mean IoU", True)
VALIDATION_LOSS = Metric("val/loss", "loss", False)
TRAINING_LOSS = Metric("train/loss", "training loss", False)
METRICS = (
    Metric("test/mean_iou", "test mean IoU", True),
    VALIDATION_MEAN_IOU,
    Metric("test/mean_per_class", "test mean per class", True),
    Metric("test/top1", "test top-1", True),
    Metric("val/mean_per_class", "mean per class", True),
    VALIDATION_TOP1,
    VALIDATION_LOSS,
    TRAINING_LOSS,
)
"""The first of them that the runs of a task have is the task's main one."""


def validation_accuracy(keys: Container[str]) -> Metric:
    """The accuracy that every validation of a run logs: mean IoU of segmentation, else top-1.

    Args:
        keys: What the run has logged.
    """
    return VALIDATION_MEAN_IOU if VALIDATION_MEAN_IOU.key in keys else VALIDATION_TOP1
