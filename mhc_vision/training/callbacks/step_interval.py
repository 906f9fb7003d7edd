"""When every so many optimiser steps have been taken, and when the last one."""

from lightning.pytorch import Trainer

from mhc_vision.checks import check_whole_number


class StepInterval:
    """Tells the batches apart that end an interval of optimiser steps; batches that only accumulate never do.

    Args:
        every_n_steps: The interval. With the trainer's `log_every_n_steps`, the ends are Lightning's logging steps.

    Raises:
        ValueError: If the interval is not positive.
    """

    def __init__(self, every_n_steps: int) -> None:
        check_whole_number("every_n_steps", every_n_steps, at_least=1)
        self.every_n_steps = every_n_steps
        self._last_step = 0

    def start(self, trainer: Trainer) -> None:
        """To be called when training starts, at step 0 or where a checkpoint left it."""
        self._last_step = trainer.global_step

    def has_ended(self, trainer: Trainer) -> bool:
        """To be called at the end of every batch: whether the optimiser stepped there, to the end of an interval."""
        stepped = trainer.global_step != self._last_step
        self._last_step = trainer.global_step
        return stepped and trainer.global_step % self.every_n_steps == 0


def is_last_step(trainer: Trainer) -> bool:
    """Whether training ends after this step, as far as its settings tell; callbacks may end it, too."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    epochs = trainer.max_epochs
    return trainer.is_last_batch and epochs is not None and epochs > 0 and trainer.current_epoch + 1 >= epochs
