"""Where a training stands: one position, from the count of optimiser steps, which all else follows."""

import math
from typing import NamedTuple

from lightning.pytorch import Trainer


class Position(NamedTuple):
    """A place in a training.

    Attributes:
        epoch: Whole epochs before it.
        batch: Batches of this epoch before it, in each process.
        batches: Batches of the whole training before it.
    """

    epoch: int
    batch: int
    batches: int


def position_of_step(trainer: Trainer, step: int) -> Position:
    """Where a training stands after so many optimiser steps.

    An epoch has the same number of batches each time (`trainer.num_training_batches`, known once the training data is
    set up), and its last step ends it. Nothing else is counted: Lightning's loops count batches, too, and otherwise
    where a checkpoint was written after validation, at the end of a run within an epoch, or between the batches of a
    step.
    """
    batches_per_epoch = int(trainer.num_training_batches)
    accumulated = trainer.accumulate_grad_batches
    epoch, steps = divmod(step, math.ceil(batches_per_epoch / accumulated))
    return Position(epoch, steps * accumulated, epoch * batches_per_epoch + steps * accumulated)
