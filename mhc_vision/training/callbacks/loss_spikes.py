"""Loss spikes: found while they happen, without waiting for the GPU."""

import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mhc_vision.checks import check_number, check_whole_number
from mhc_vision.training.callbacks.step_interval import StepInterval


class LossSpikes(Callback):
    """Counts losses far above what the run was used to, logs `train/loss_spikes`, and warns of new ones.

    A spike is a training loss more than `threshold` standard deviations above the running mean, or one that is not
    finite. Mean and variance are exponential averages over batches; a spike enters them clipped to the threshold, so
    that one spike does not hide the next and a lasting rise becomes the new level, and a loss that is not finite does
    not enter them. They live on the loss's device and are read once per interval. Each process looks at its own
    batches; the first one logs.

    Args:
        every_n_steps: Optimiser steps between two looks at the count; best the trainer's `log_every_n_steps`.
        threshold: Standard deviations above the mean, positive.
        decay: Of the averages, in (0, 1).
        warmup: Finite losses at the start that only feed the averages.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, every_n_steps: int = 50, threshold: float = 6.0, decay: float = 0.98, warmup: int = 20) -> None:
        check_number("threshold", threshold, above=0)
        check_number("decay", decay, above=0, below=1)
        # a variance takes two losses
        check_whole_number("warmup", warmup, at_least=2)
        self.threshold = threshold
        self.decay = decay
        self.warmup = warmup
        self._interval = StepInterval(every_n_steps)
        self._reported = 0
        # running mean, running variance, number of spikes, number of finite losses
        self._figures = torch.zeros(4, dtype=torch.float64)

    @property
    def count(self) -> int:
        """Spikes so far."""
        return int(self._figures[2])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the figures where the losses are."""
        self._interval.start(trainer)
        # MPS has no fp64
        dtype = torch.float32 if pl_module.device.type == "mps" else torch.float64
        self._figures = self._figures.to(pl_module.device, dtype)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at a batch's loss, and logs the count when it is time."""
        self.update(outputs["loss"].detach())
        if not self._interval.has_ended(trainer):
            return
        count = self.count
        pl_module.log("train/loss_spikes", float(count), batch_size=len(batch[0]))
        if count > self._reported and trainer.is_global_zero:
            warnings.warn(
                f"{count - self._reported} loss spikes in the {self._interval.every_n_steps} steps up to "
                f"{trainer.global_step}, {count} in all",
                stacklevel=2,
            )
        self._reported = count

    def update(self, loss: Tensor) -> None:
        """Adds the loss of a batch, a scalar, to the averages, and to the count if it is a spike."""
        mean, variance, spikes, seen = self._figures.unbind()
        loss = loss.to(self._figures.dtype)
        finite = loss.isfinite()
        limit = mean + self.threshold * variance.sqrt()
        limit = torch.where(seen < self.warmup, torch.inf, limit)
        # the averages of few losses are plain ones
        weight = torch.clamp(1.0 / (seen + 1.0), min=1.0 - self.decay)
        difference = loss.minimum(limit) - mean
        averages = torch.stack([mean + weight * difference, (1.0 - weight) * (variance + weight * difference.square())])
        self._figures = torch.cat(
            [
                torch.where(finite, averages, self._figures[:2]),
                torch.stack([spikes + ~(finite & (loss <= limit)), seen + finite]),
            ]
        )

    def state_dict(self) -> dict[str, Any]:
        """The averages and the count, for checkpoints."""
        return {"reported": self._reported, "figures": self._figures.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._reported = state_dict["reported"]
        self._figures = torch.tensor(state_dict["figures"], dtype=torch.float64)
