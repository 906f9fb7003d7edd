"""The loss that a model was trained with, as checkpoints and exported models say it: it tells what logits mean."""

from collections.abc import Sequence

LOSSES = ("ce", "bce")


def loss_note(kind: str) -> str:
    """What an exported model says of its loss among timm's notes."""
    return f"loss: {kind}"


def noted_loss(notes: Sequence[str] | None) -> str | None:
    """The loss that `loss_note` has put among the notes of a model; `None` where there is none."""
    return next((kind for kind in LOSSES if loss_note(kind) in (notes or ())), None)
