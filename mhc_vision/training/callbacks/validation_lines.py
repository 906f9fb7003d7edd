"""Validation and test figures on standard output, a line each."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from mhc_vision.connection_text import connection_text, constraint_of
from mhc_vision.progress import duration

_LABELS = {
    "top1": "top1",
    "top5": "top5",
    "mean_per_class": "mean per class",
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel accuracy",
}
"""Of shares in [0, 1], by the ends of their names in the log."""


class ValidationLines(Callback):
    """Prints a line before a training, after each validation and after a test; on the first process only.

    The figures are the trainer's `callback_metrics`. The best validation is that of the module's `metric`, among those
    with a finite loss, as for `best.ckpt`; a resumed run knows of the ones before.
    """

    def __init__(self) -> None:
        self._best: float | None = None
        self._best_at = ""
        self._first_epoch = 0
        self._train_began = self._began = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what is trained, and on what."""
        settings = pl_module.hparams
        model = pl_module.get_submodule("model")
        connection = settings["connection"]
        kind = connection_text(connection, getattr(model, "num_streams", 1), constraint_of(settings))
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        total, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
        share = "" if trained == total else f", {trained:,} of them trained"
        processes = f"{trainer.world_size} processes, " if trainer.world_size > 1 else ""
        self._print(
            trainer,
            f"training {settings['name']}{f', {kind}' if connection else ''}: {total:,} parameters{share}; "
            f"{processes}{trainer.strategy.root_device.type}, precision {trainer.precision}",
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._first_epoch = trainer.current_epoch
        self._train_began = self._began = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of a validation that belongs to no training."""
        if trainer.state.fn == "validate":
            self._began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the figures."""
        # on all processes: some figures are put together when they are read
        metrics = trainer.callback_metrics
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit":
            self._print(trainer, figures_line("validation", "val", metrics, time.monotonic() - self._began))
            return
        accuracy, loss = metrics.get(accuracy_name(pl_module, "val")), metrics.get("val/loss")
        if accuracy is None or loss is None:
            return
        step = "" if trainer.is_last_batch else f", step {trainer.global_step:,}"
        best = self._compare(float(accuracy), float(loss), f"epoch {trainer.current_epoch + 1}{step}")
        now = time.monotonic()
        self._print(
            trainer,
            f"{epoch_name(trainer)}{step}: val {_percent(accuracy)}, loss {float(loss):#.4g}, {best}; "
            f"{duration(now - self._began)}{self._left(trainer, now)}",
        )
        self._began = now

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._began = time.monotonic()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the figures."""
        metrics = trainer.callback_metrics
        self._print(trainer, figures_line("test", "test", metrics, time.monotonic() - self._began))

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far, for checkpoints."""
        return {"best": self._best, "best_at": self._best_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._best, self._best_at = state_dict["best"], state_dict["best_at"]

    def _compare(self, accuracy: float, loss: float, position: str) -> str:
        """Where a validation stands among those so far."""
        if math.isfinite(loss) and (self._best is None or accuracy > self._best):
            self._best, self._best_at = accuracy, position
            return "the best so far"
        if self._best is None:
            return "which does not count: the loss is not finite"
        return f"best {_percent(self._best)} in {self._best_at}"

    def _left(self, trainer: Trainer, now: float) -> str:
        """How long the other epochs will take, where their number ends the run."""
        if not trainer.is_last_batch or trainer.max_steps != -1 or (trainer.max_epochs or -1) < 0:
            return ""
        done = trainer.current_epoch + 1 - self._first_epoch
        left = trainer.max_epochs - trainer.current_epoch - 1  # type: ignore[operator]
        return f", {duration((now - self._train_began) / done * left)} left" if left else ""

    def _print(self, trainer: Trainer, line: str) -> None:
        if trainer.is_global_zero:
            # a bar that is there makes room
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()


def accuracy_name(module: LightningModule, stage: str) -> str:
    """The name of the module's main metric in `val` or `test`."""
    return f"{stage}/{module.hparams.get('metric', 'top1')}"


def epoch_name(trainer: Trainer) -> str:
    """Which epoch this is, counted from 1, and of how many, where that is known."""
    total = trainer.max_epochs
    if total is None or total < 1:
        return f"epoch {trainer.current_epoch + 1}"
    return f"epoch {trainer.current_epoch + 1}/{total}"


def figures_line(name: str, stage: str, metrics: Mapping[str, Any], seconds: float) -> str:
    """All accuracies in percent and the loss, as far as they are there.

    Args:
        name: What they are of, such as `test`.
        stage: `val` or `test`, as in the names of the metrics.
        metrics: Figures by name.
        seconds: What it took.
    """
    shown = []
    for key, label in _LABELS.items():
        if (accuracy := metrics.get(f"{stage}/{key}")) is not None:
            shown.append(f"{label} {_percent(accuracy)}")
    if (loss := metrics.get(f"{stage}/loss")) is not None:
        shown.append(f"loss {float(loss):#.4g}")
    return f"{name}: {', '.join(shown)}; {duration(seconds)}"


def _percent(accuracy: Any) -> str:
    return f"{100 * float(accuracy):.2f} %"
