"""Refused settings and checkpoints end a command with a message; errors of a run under way keep their tracebacks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.command_line.messages import fail
from mhc_vision.stored.weights import short_reason
from mhc_vision.training.callbacks.divergence import TrainingDiverged
from mhc_vision.training.options.errors import is_refusal


class SetupMark(Callback):
    """Notes when data, model, optimiser and loaders are set up: errors until then are about the settings.

    Attributes:
        is_set_up: Whether they are.
        is_restoring: Whether Lightning is about to restore, from a checkpoint, what `check_same_run` does not look at.
    """

    def __init__(self) -> None:
        self.is_set_up = False
        self.is_restoring = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes that the states of callbacks, loops and optimisers are restored next."""
        self.is_restoring = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that all is set up."""
        self.is_set_up = True

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that all is restored."""
        self.is_restoring = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that all is restored."""
        self.is_restoring = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes both."""
        self.is_set_up, self.is_restoring = True, False

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes both."""
        self.is_set_up, self.is_restoring = True, False

    @contextmanager
    def refusals_as_messages(self) -> Iterator[None]:
        """Ends the program with a message where settings or a checkpoint are refused; later errors are raised."""
        try:
            yield
        except TrainingDiverged:
            # the checkpoint is whole, and what is wrong with it is said
            raise
        except Exception as error:
            if self.is_restoring:
                # Lightning takes the structure of a checkpoint for granted
                fail(f"error: ckpt_path: the checkpoint cannot be restored: {short_reason(error)}", status=2)
            if not is_refusal(error, self.is_set_up):
                raise
            fail(f"error: {error}", status=2)
