"""What an exported model says among timm's notes, which has no place of its own in timm's configuration."""

from collections.abc import Sequence

LOSSES = ("ce", "bce")
_EXIF = {True: "exif_orientation: applied", False: "exif_orientation: not applied"}


def loss_note(kind: str) -> str:
    """The loss that a model was trained with, which tells what its logits mean."""
    return f"loss: {kind}"


def noted_loss(notes: Sequence[str] | None) -> str | None:
    """The loss that `loss_note` has put among the notes of a model; `None` where there is none."""
    return next((kind for kind in LOSSES if loss_note(kind) in (notes or ())), None)


def exif_note(applied: bool) -> str:
    """Whether photos were turned upright in training."""
    return _EXIF[applied]


def noted_exif(notes: Sequence[str] | None) -> bool | None:
    """What `exif_note` has put among the notes of a model; `None` where there is nothing."""
    return next((applied for applied, note in _EXIF.items() if note in (notes or ())), None)
