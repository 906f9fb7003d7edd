"""Loss spikes: found while they happen, without waiting for the GPU."""

import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mhc_vision.training.step_interval import StepInterval


class LossSpikes(Callback):
    """Counts losses far above what the run was used to, logs `train/loss_spikes`, and warns of new ones.

    A spike is a training loss more than `threshold` standard deviations above the running mean, or one that is not
    finite. Mean and variance are exponential averages over batches; a spike enters them clipped to the threshold, so
    that one spike does not hide the next and a lasting rise becomes the new level. They live on the loss's device and
    are read once an interval. Each process looks at its own batches; the first one logs.

    Args:
        every_n_steps: Optimiser steps between two looks at the count; best the trainer's `log_every_n_steps`.
        threshold: Standard deviations above the mean, positive.
        decay: Of the averages, in (0, 1).
        warmup: Batches at the start that only feed the averages.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, every_n_steps: int = 50, threshold: float = 6.0, decay: float = 0.98, warmup: int = 100) -> None:
        if threshold <= 0:
            raise ValueError(f"threshold must be positive, got {threshold}")
        if not 0 < decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {decay}")
        if warmup < 2:
            raise ValueError(f"warmup must be at least 2 batches, got {warmup}")
        self.threshold = threshold
        self.decay = decay
        self.warmup = warmup
        self._interval = StepInterval(every_n_steps)
        self._batches = 0
        self._reported = 0
        # running mean, running variance, number of spikes
        self._figures = torch.zeros(3, dtype=torch.float64)

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
        mean, variance, count = self._figures.unbind()
        loss = loss.to(self._figures.dtype)
        self._batches += 1
        if self._batches == 1:
            self._figures[0] = loss
            return
        # the averages of few batches are plain ones
        weight = max(1.0 - self.decay, 1.0 / self._batches)
        if self._batches > self.warmup:
            limit = mean + self.threshold * variance.sqrt()
            count = count + ~(loss <= limit)
            loss = torch.where(loss.isfinite(), loss.minimum(limit), limit)
        difference = loss - mean
        self._figures = torch.stack(
            [mean + weight * difference, (1.0 - weight) * (variance + weight * difference.square()), count]
        )

    def state_dict(self) -> dict[str, Any]:
        """The averages and the count, for checkpoints."""
        return {"batches": self._batches, "reported": self._reported, "figures": self._figures.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._batches, self._reported = state_dict["batches"], state_dict["reported"]
        self._figures = torch.tensor(state_dict["figures"], dtype=torch.float64)
