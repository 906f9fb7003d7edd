"""Ctrl-C: finish the step, save, stop."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.training.step_interval import StepInterval

_AGREE_EVERY_N_STEPS = 10


class TrainingInterrupted(BaseException):
    """Training stopped on request, after saving `checkpoint`. Not an error, so not an `Exception`."""

    def __init__(self, checkpoint: Path, step: int) -> None:
        super().__init__(f"interrupted at step {step}: resume with --ckpt_path {checkpoint}")
        self.checkpoint = checkpoint


class InterruptCheckpoint(Callback):
    """Turns the first SIGINT into a checkpoint after the running optimiser step; a second one interrupts at once.

    Several processes agree on it every tenth step, as each agreement waits for all GPUs. After the last step of a run
    there is nothing to go on with: the run ends as it would have, with its validation and its summary.

    The stop raises `TrainingInterrupted`. Setting `trainer.should_stop` would run a validation first and count the
    epoch as finished.

    Args:
        path: Where the checkpoint goes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._requested = False
        self._process = os.getpid()
        self._previous_handler: Any = None
        self._interval = StepInterval(1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes SIGINT over; this early, so that forked data workers inherit the handler and outlive Ctrl-C."""
        if stage == "fit" and threading.current_thread() is threading.main_thread():
            self._requested = False
            self._process = os.getpid()
            self._previous_handler = signal.signal(signal.SIGINT, self._request)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step the run starts from."""
        self._interval = StepInterval(1 if trainer.world_size == 1 else _AGREE_EVERY_N_STEPS)
        self._interval.start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and stops if that was asked for and the optimiser has just stepped."""
        # Ctrl-C reaches the processes at different moments: they stop together
        if not self._interval.has_ended(trainer):
            return
        if not trainer.strategy.reduce_boolean_decision(self._requested, all=False):
            return
        if trainer.global_step < trainer.estimated_stepping_batches:
            trainer.save_checkpoint(self.path)
            raise TrainingInterrupted(self.path, trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives SIGINT back."""
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives SIGINT back."""
        self._restore()

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nsaving a checkpoint after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None
