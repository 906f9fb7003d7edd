"""Ends a run whose loss is no longer finite."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from mhc_vision.checks import check_whole_number
from mhc_vision.finite import named, not_finite
from mhc_vision.training.callbacks.step_interval import StepInterval

_LOOK_EVERY_N_STEPS = 10
_ADVICE = "lower the learning rate, or clip gradients"


class TrainingDiverged(RuntimeError):
    """A run came to NaN or infinity, and has no result."""


class StopWhenDiverged(Callback):
    """Ends a run with `TrainingDiverged` when its loss has not been finite for many optimiser steps in a row.

    It is counted on the loss's device, and looked at every tenth step, where all processes agree: the loss of any of
    them counts. A run that ends earlier than that with weights or a validation loss that are not finite ends alike,
    before its summary is written; so does a validation or test whose logits are not finite. Checkpoints of before stay.

    Args:
        patience: Optimiser steps in a row whose loss is not finite; `None` to keep going to the end whatever happens.

    Raises:
        ValueError: If the number is out of range.
    """

    def __init__(self, patience: int | None = 20) -> None:
        if patience is not None:
            check_whole_number("patience", patience, at_least=1)
        self.patience = patience
        self._interval = StepInterval(min(patience or _LOOK_EVERY_N_STEPS, _LOOK_EVERY_N_STEPS))
        self._last_step = 0
        # steps in a row up to the last one, and whether a batch since then was not finite
        self._streak = torch.zeros((), dtype=torch.int64)
        self._bad = torch.zeros((), dtype=torch.bool)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the count where the losses are, and looks at the weights that the run starts from."""
        self._interval.start(trainer)
        self._last_step = trainer.global_step
        self._streak, self._bad = self._streak.to(pl_module.device), self._bad.to(pl_module.device)
        if self.patience is None:
            return
        names = not_finite(pl_module)
        # shards of the weights lie in different processes
        if trainer.strategy.reduce_boolean_decision(bool(names), all=False):
            raise TrainingDiverged(
                f"weights: got NaN or infinity in {named(names)}, expected finite ones to start from; go on from "
                "an earlier checkpoint, such as --ckpt_path <run directory>/checkpoints/best.ckpt"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts, and looks when it is time."""
        if self.patience is None:
            return
        self.update(outputs["loss"].detach(), stepped=trainer.global_step != self._last_step)
        self._last_step = trainer.global_step
        if self._interval.has_ended(trainer) and (streak := self._agreed(trainer)) >= self.patience:
            raise TrainingDiverged(_loss_message(streak, trainer.global_step))

    def update(self, loss: Tensor, *, stepped: bool) -> None:
        """Adds the loss of a batch, a scalar; `stepped` if an optimiser step ended with it."""
        self._bad = self._bad | ~loss.isfinite()
        if stepped:
            self._streak = torch.where(self._bad, self._streak + 1, 0)
            self._bad = torch.zeros_like(self._bad)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks once more, at what the run has come to."""
        if self.patience is None:
            return
        validated = trainer.callback_metrics.get("val/loss")
        names, streak = not_finite(pl_module), self._agreed(trainer)
        lost = bool(names) or streak >= self.patience or (validated is not None and not bool(validated.isfinite()))
        if not trainer.strategy.reduce_boolean_decision(lost, all=False):
            return
        if streak:
            raise TrainingDiverged(_loss_message(streak, trainer.global_step))
        if names:
            raise TrainingDiverged(f"the run ends with NaN or infinity in {named(names)}: {_ADVICE}")
        raise TrainingDiverged(f"the run ends with a validation loss that is not finite: {_ADVICE}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a validation that is no part of a training: refuses figures of logits that are not finite."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._check_evaluation(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses figures of logits that are not finite."""
        self._check_evaluation(trainer, "test")

    def state_dict(self) -> dict[str, Any]:
        """The count, for checkpoints."""
        return {"streak": int(self._streak)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._streak = torch.tensor(state_dict["streak"])

    def _agreed(self, trainer: Trainer) -> int:
        """The longest count of any process."""
        # which is written to what is given
        return int(trainer.strategy.reduce(self._streak.clone(), reduce_op="max"))

    def _check_evaluation(self, trainer: Trainer, stage: str) -> None:
        count = int(trainer.callback_metrics.get(f"{stage}/not_finite", 0))
        if self.patience is not None and count:
            raise TrainingDiverged(
                f"the logits of {count} images are not finite, which count as wrong: the model has diverged in training"
            )


def _loss_message(streak: int, step: int) -> str:
    return (
        f"the training loss is not finite from step {step - streak + 1} to step {step}, where the run ends: {_ADVICE}"
    )
