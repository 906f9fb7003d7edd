"""Ctrl-C and SIGTERM: finish the step, save, stop."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.termination import Terminated
from mhc_vision.training.callbacks.step_interval import StepInterval

_AGREE_EVERY_N_STEPS = 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(BaseException):
    """Training stopped on request, after saving `checkpoint`. Not an error, so not an `Exception`.

    Attributes:
        checkpoint: Where to go on from.
        signum: What asked for it, SIGINT or SIGTERM.
    """

    def __init__(self, checkpoint: Path, step: int, signum: int = signal.SIGINT) -> None:
        what = "terminated" if signum == signal.SIGTERM else "interrupted"
        super().__init__(f"{what} at step {step}: resume with --ckpt_path {checkpoint}")
        self.checkpoint = checkpoint
        self.signum = signum


class InterruptCheckpoint(Callback):
    """Turns the first SIGINT or SIGTERM of a training into a checkpoint after the running optimiser step.

    A second one stops at once, as does the first one outside of the training steps, before the training or in a test,
    where there is nothing to save. Several processes agree on it every tenth step, as each agreement waits for all
    GPUs. After the last step of a run there is nothing to go on with: the run ends as it would have, with its
    validation and its summary.

    The stop raises `TrainingInterrupted`. Setting `trainer.should_stop` would run a validation first and count the
    epoch as finished; Lightning's own handler of SIGTERM ends the program with status 0 and saves nothing. SLURM's
    signal for requeueing stays Lightning's.

    Args:
        path: Where the checkpoint goes; `None` saves none and stops at once.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        # the signal that asked for a stop
        self._requested: int | None = None
        self._stop: TrainingInterrupted | None = None
        self._training = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}
        self._holds_signals = False
        self._interval = StepInterval(1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the signals over; this early, so that forked data workers inherit the handler and outlive Ctrl-C."""
        self._restore()
        self._requested = self._stop = None
        self._training = False
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = {signum: signal.signal(signum, self._request) for signum in _SIGNALS}
            self._holds_signals = True

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes SIGTERM back from Lightning, which has put its own handler before ours by now."""
        self._take_back()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_sanity_check_start`."""
        self._take_back()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_sanity_check_start`."""
        self._take_back()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_sanity_check_start`."""
        self._take_back()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step the run starts from; from here on there is something to save."""
        self._take_back()
        self._interval = StepInterval(1 if trainer.world_size == 1 else _AGREE_EVERY_N_STEPS)
        self._interval.start(trainer)
        self._training = self.path is not None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if a stop was asked for and the optimiser has just stepped."""
        # signals reach the processes at different moments, or one of them only: they stop together
        if self.path is None or not self._interval.has_ended(trainer):
            return
        signum = self._agreed(trainer)
        if signum and trainer.global_step < trainer.estimated_stepping_batches:
            trainer.save_checkpoint(self.path)
            self._stop = TrainingInterrupted(self.path, trainer.global_step, signum)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops: the last step is logged by now and, where a validation followed it, validated."""
        if self._stop is not None:
            raise self._stop

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._restore()

    def _agreed(self, trainer: Trainer) -> int:
        """The largest signal number that any process has got; 0 for none."""
        mine = self._requested or 0
        if trainer.world_size == 1:
            return mine
        return int(trainer.strategy.reduce(torch.tensor(mine, device=trainer.strategy.root_device), reduce_op="max"))

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if not self._holds_signals:
            # Lightning puts back what it has found, also after we have given the signals back
            signal.signal(signum, self._previous[signum])
            signal.raise_signal(signum)
        elif self._requested is not None or not self._training:
            raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt
        else:
            self._requested = signum
            print("\nsaving a checkpoint after this step; a second signal stops at once", file=sys.stderr, flush=True)

    def _take_back(self) -> None:
        if self._holds_signals:
            for signum in _SIGNALS:
                if signal.getsignal(signum) != self._request:
                    signal.signal(signum, self._request)

    def _restore(self) -> None:
        if self._holds_signals:
            self._holds_signals = False
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)
