"""When every so many optimiser steps have been taken."""

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
