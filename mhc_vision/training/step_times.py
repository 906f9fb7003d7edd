"""How long an optimiser step of several runs takes, in turns in one process, so that the machine's noise hits all."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.models.instruments.timing import alternate
from mhc_vision.training.cli import TrainCLI
from mhc_vision.training.module import ClassificationModule

# a median needs some, however short the time
_LEAST_ROUNDS = 10
# nothing is written, and no validation comes before the first batch
QUIET = ("--trainer.logger", "false", "--trainer.enable_checkpointing", "false", "--trainer.num_sanity_val_steps", "0")
"""Words that a run is built with to be measured; its run directory stays as it is."""


@dataclass(frozen=True)
class MeasuredStep:
    """What an optimiser step of a run takes beside that of another run.

    Attributes:
        ratio: Median over the rounds of its seconds over the other's of the same round.
        seconds: Median.
        rounds: How many were timed.
    """

    ratio: float
    seconds: float
    rounds: int


class OptimiserStep:
    """An optimiser step of a run as it would train, on its first batch again and again; call it for one.

    Forward, loss, backward, clipping and update count, at the run's precision and on its device, compiled if the run
    is; data loading, logging and callbacks do not.

    Args:
        cli: Of the run, built with `QUIET` and without running its command.

    Attributes:
        steps: Optimiser steps that the run takes.
        validations: Validations within it, at least 1.
        accumulated: Batches of an optimiser step.
        device: Where the run trains, by name.

    Raises:
        ValueError: If the length of the run is not known.
    """

    def __init__(self, cli: TrainCLI) -> None:
        start = _FirstBatch()
        cli.trainer.callbacks = [start]  # type: ignore[attr-defined]
        try:
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        except _Begun:
            pass
        else:
            raise ValueError("trainer: got a run without a training batch, expected steps that can be timed")
        self.steps, self.validations = start.steps, start.validations
        self.accumulated: int = cli.trainer.accumulate_grad_batches
        self.device = torch.cuda.get_device_name(start.device) if start.device.type == "cuda" else start.device.type
        self._batch = start.batch
        self._optimizer = start.optimizer
        self._precision = cli.trainer.precision_plugin
        self._clip = cli.trainer.gradient_clip_val
        # the end of `fit` takes a model off its device
        self._module: ClassificationModule = cli.model.to(start.device).train()

    def __call__(self) -> None:
        """Takes the step; on a GPU it returns before the step has ended."""
        images, targets = self._batch
        self._optimizer.zero_grad(set_to_none=True)
        for _ in range(self.accumulated):
            with self._precision.train_step_context():
                loss = self._module.training_loss(self._module(images), targets)
            (loss / self.accumulated).backward()
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        # `ClassificationModule` takes the norm without clipping, too
        torch.nn.utils.clip_grad_norm_(parameters, self._clip or math.inf)
        self._optimizer.step()


def measure_steps(steps: Mapping[str, OptimiserStep], beside: str, *, seconds: float) -> dict[str, MeasuredStep]:
    """Times the steps of several runs in turns.

    Args:
        steps: By name.
        beside: The name of the one that the others' times are divided by.
        seconds: To go on for, with each; at least ten steps are timed.
    """
    times = {name: timed.times for name, timed in _alternate(steps, seconds).items()}
    return {
        name: MeasuredStep(
            statistics.median(mine / other for mine, other in zip(taken, times[beside], strict=True)),
            statistics.median(taken),
            len(taken),
        )
        for name, taken in times.items()
    }


def _alternate(steps: Mapping[str, OptimiserStep], seconds: float) -> dict[str, Any]:
    return dict(alternate(steps, seconds=seconds, least_rounds=_LEAST_ROUNDS))


class _Begun(Exception):
    """Ends `fit` before its first step."""


class _FirstBatch(Callback):
    """Takes from a run what its first step would be of."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes it, and ends the run.

        Raises:
            ValueError: If the length of the run is not known.
        """
        self.steps = int(trainer.estimated_stepping_batches)
        self.validations = _validations(trainer, self.steps * trainer.accumulate_grad_batches)
        self.batch = batch
        self.optimizer = trainer.optimizers[0]
        self.device = trainer.strategy.root_device
        raise _Begun


def _validations(trainer: Trainer, batches: int) -> int:
    """How often a run of so many batches validates."""
    per_epoch, interval = trainer.num_training_batches, trainer.val_check_batch
    # by the clock, or data of unknown length
    if interval is None or not math.isfinite(interval) or not math.isfinite(per_epoch):
        return 1
    if trainer.check_val_every_n_epoch is None:
        return max(1, batches // int(interval))
    validated_epochs = batches // int(per_epoch) // trainer.check_val_every_n_epoch
    return max(1, validated_epochs * (int(per_epoch) // int(interval)))
