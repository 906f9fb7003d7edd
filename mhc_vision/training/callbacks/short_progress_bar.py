"""The bar of a training at a terminal: loss, images per second, time left of the epoch."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from mhc_vision.progress import ShortBar
from mhc_vision.training.callbacks.validation_lines import accuracy_name, epoch_name

_READ_S = 1.0


class ShortProgressBar(TQDMProgressBar):
    """Lightning's bar in one line that fits the terminal, on stderr; nothing where that is no terminal.

    It shows the loss, the images per second where `Throughput` logs them, and the accuracy of the last validation. The
    loss is read at most once a second, as that waits for the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._read_at = 0.0

    def init_sanity_tqdm(self) -> Any:
        """Of the two batches that are validated before the training."""
        return self._bar("checking validation")

    def init_train_tqdm(self) -> Any:
        """Of an epoch."""
        return self._bar("training")

    def init_validation_tqdm(self) -> Any:
        """In the place of the training's."""
        return self._bar("validation")

    def init_test_tqdm(self) -> Any:
        """Of a test."""
        return self._bar("test")

    def init_predict_tqdm(self) -> Any:
        """Of a pass for features."""
        return self._bar("features")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts anew."""
        self.train_progress_bar.set_description_str(epoch_name(trainer), refresh=False)
        _reset(self.train_progress_bar, self.total_train_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch."""
        bar = self.train_progress_bar
        if bar.disable:
            return
        now = time.monotonic()
        if now - self._read_at >= _READ_S:
            self._read_at = now
            bar.figures = _figures(trainer)
        bar.update(batch_idx + 1 - bar.n)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning would read all metrics."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Learns how many there are."""
        if self.has_dataloader_changed(dataloader_idx):
            _reset(self.val_progress_bar, self.total_val_batches_current_dataloader)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the line back to the training."""
        self.val_progress_bar.close()
        self.reset_dataloader_idx_tracker()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Learns how many there are."""
        if self.has_dataloader_changed(dataloader_idx):
            _reset(self.test_progress_bar, self.total_test_batches_current_dataloader)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Learns which split the images are of, and how many there are."""
        if self.has_dataloader_changed(dataloader_idx):
            split = ("training", "validation", "test")[dataloader_idx]
            self.predict_progress_bar.set_description_str(f"features of {split} images", refresh=False)
            _reset(self.predict_progress_bar, self.total_predict_batches_current_dataloader)

    def _bar(self, desc: str) -> ShortBar:
        return ShortBar(desc=desc, disable=self.is_disabled)


def _reset(bar: ShortBar, total: float) -> None:
    """Starts a bar anew; its total is infinite where nobody knows it."""
    bar.total = None
    bar.reset(total if math.isfinite(total) else None)


def _figures(trainer: Trainer) -> tuple[str, ...]:
    metrics = trainer.progress_bar_metrics
    shown = []
    if "train/loss" in metrics:
        shown.append(f"loss {metrics['train/loss']:#.3g}")
    if "perf/images_per_s" in metrics:
        shown.append(f"{metrics['perf/images_per_s']:,.0f} images/s")
    accuracy = trainer.callback_metrics.get(accuracy_name(trainer.lightning_module, "val"))
    if accuracy is not None:
        shown.append(f"val {100 * float(accuracy):.1f} %")
    return tuple(shown)
