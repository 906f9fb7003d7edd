"""Training losses for hard and soft targets."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from mhc_vision.checks import check_choice, check_number
from mhc_vision.stored.model_notes import LOSSES

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def classification_loss(kind: str, label_smoothing: float = 0.0) -> Loss:
    """The loss of logits (B, K) against targets: class indices (B,) or class probabilities (B, K).

    Args:
        kind: `"ce"`: softmax cross-entropy. `"bce"`: a sigmoid for each class as in DeiT-III, where every class
            present in a mixed image counts as fully present.
        label_smoothing: Share of the target spread over all classes, in [0, 1); only for `"ce"`.

    Raises:
        ValueError: If `kind` is unknown or `label_smoothing` does not fit it.
    """
    check_choice("loss", kind, LOSSES)
    check_number("label_smoothing", label_smoothing, at_least=0, below=1)
    if kind == "ce":

        def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)

        return cross_entropy
    if label_smoothing > 0.0:
        raise ValueError(f"label_smoothing: got {label_smoothing}, expected 0 with loss 'bce'; its targets are 0 or 1")
    return _binary_cross_entropy


def _binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[-1])
    return F.binary_cross_entropy_with_logits(logits, (targets > 0).to(logits.dtype))
