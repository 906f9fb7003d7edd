"""Puts a resumed run at the batch that follows from its optimiser steps, whatever Lightning's loops have counted."""

from dataclasses import fields
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from mhc_vision.data.order import Position, position_of_step


class ResumePosition(Callback):
    """Sets the counters of Lightning's loops to the position that follows from the number of steps.

    They are wrong in checkpoints that were written after the last batch of a run that `max_steps` ended within an
    epoch: there Lightning counts the epoch as finished, and an extended run would train on some batches twice and on
    others not at all. Also checks that an epoch consists of whole optimiser steps.
    """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Corrects the count of epochs; Lightning asks it whether the run is over before training starts."""
        if trainer.state.fn == TrainerFn.FITTING:
            trainer.fit_loop.setup_data()
            if trainer.num_training_batches == float("inf"):
                # of unknown length, of data that is not ours
                return
            epochs = position_of_step(trainer, checkpoint["global_step"]).epoch
            progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts.update(dict.fromkeys(counts, epochs))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses an epoch that ends within an optimiser step, as the gradient of that step would be too small.

        Raises:
            ValueError: If it does.
        """
        trainer.fit_loop.setup_data()
        batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
        # of unknown length, of data that is not ours
        if trainer.fast_dev_run or batches == float("inf"):  # type: ignore[attr-defined]
            return
        if rest := int(batches) % accumulated:
            raise ValueError(
                f"trainer.limit_train_batches: got {trainer.limit_train_batches}, which is {batches} batches per "
                f"epoch, expected a multiple of trainer.accumulate_grad_batches={accumulated}; give "
                f"{max(int(batches) - rest, accumulated)}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the counters, between the restoring of a checkpoint and the first batch."""
        if trainer.global_step > 0 and trainer.num_training_batches != float("inf"):
            _place_loops(trainer, position_of_step(trainer, trainer.global_step))


def _place_loops(trainer: Trainer, position: Position) -> None:
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for counts in (fit_loop.epoch_progress.total, fit_loop.epoch_progress.current):
        _set(counts, position.epoch)
    _set(epoch_loop.batch_progress.total, position.batches)
    _set(epoch_loop.batch_progress.current, position.batch)
    epoch_loop.batch_progress.is_last_batch = False
    # no special cases: an epoch begins, or the rest of one
    for loop in (fit_loop, epoch_loop, epoch_loop.val_loop):
        loop.reset_restart_stage()
    within_epoch = position.batch > 0
    epoch_loop.restarting = within_epoch
    # the step that logs are of; Lightning adds one when it restarts within an epoch
    epoch_loop.on_load_checkpoint({"_batches_that_stepped": trainer.global_step - within_epoch})


def _set(counts: Any, value: int) -> None:
    for field in fields(counts):
        setattr(counts, field.name, value)
