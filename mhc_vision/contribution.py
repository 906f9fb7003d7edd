"""What the connections of a model contribute, and when that is nothing: one reading for runs, reports and analyses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VALUE, ERROR = "val/contribution", "val/contribution_se"
"""Names of the two figures in the records of a run."""

NEGLIGIBLE = 0.002
"""Difference in loss (nats) below which maps that are set back to their start cost nothing, however surely."""
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Contribution:
    """Loss of a model with its maps set back to their start, minus its loss, on the same images.

    Attributes:
        value: Mean over images (nats). Above 0, what the maps have learned lowers the loss.
        standard_error: Of that mean, from the differences of single images; NaN for one image.
    """

    value: float
    standard_error: float

    @property
    def is_plain(self) -> bool:
        """Whether the model is a plain one: setting its maps back costs nothing that can be told from 0.

        That is below `NEGLIGIBLE`, or within 2 standard errors of 0. Both losses are of the same weights and images, so
        that neither training nor the choice of images adds noise but by the differences themselves.
        """
        return abs(self.value) < NEGLIGIBLE or abs(self.value) <= _STANDARD_ERRORS * self.standard_error

    @property
    def figures(self) -> str:
        """Value and standard error, as text."""
        return f"{self.value:+.4f} ± {self.standard_error:.4f}"

    @property
    def words(self) -> str:
        """What it means."""
        if not math.isfinite(self.value):
            return "not finite"
        if abs(self.value) < NEGLIGIBLE:
            return "a plain model at a higher price: it loses nothing when its maps are set back"
        if self.is_plain:
            return "a plain model as far as these images tell: the difference is within 2 standard errors of 0"
        return "the maps do harm" if self.value < 0 else "the maps contribute"


def logged_contribution(metrics: Mapping[str, Any]) -> Contribution | None:
    """What a run has logged, from the metrics of its summary; `None` where it has measured nothing."""
    if VALUE not in metrics:
        return None
    # the texts "nan" and "inf" stand for what is not finite
    return Contribution(float(metrics[VALUE]), float(metrics[ERROR]))
