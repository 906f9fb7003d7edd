"""`predictions.npz`: what the last evaluation of a run said of each image, for its report."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mhc_vision.data.machine import share_of_data
from mhc_vision.predictions import PredictionCollector, Predictions, join_results


class CollectPredictions(Callback):
    """Collects predictions while a run validates, and at its end writes those of its last validation, or of its test.

    The steps of the module give their logits. Where targets are no class indices (B,), nothing is written.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._collector: PredictionCollector | None = None
        self._place = ""
        self._of_a_run = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that there is a run: an evaluation by itself writes nothing."""
        self._of_a_run = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self._begin(trainer, f"validation after step {trainer.global_step:,}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self._begin(trainer, "test of the final weights")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Adds a batch."""
        self._add(outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Adds a batch."""
        self._add(outputs, batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes those of the last validation."""
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes those of the test, in place of the validation's."""
        self._write(trainer, pl_module)

    def _begin(self, trainer: Trainer, place: str) -> None:
        if self._of_a_run and not trainer.sanity_checking:
            self._collector, self._place = PredictionCollector(_to_pixels(trainer)), place

    def _add(self, outputs: Any, batch: Any) -> None:
        if self._collector is None:
            return
        if not _has_classes(outputs, batch):
            self._collector = None
            return
        images, labels = batch
        self._collector.add(images, outputs["logits"], labels)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        """Of all processes, by the first one."""
        if not self._of_a_run:
            return
        mine = None if self._collector is None else self._collector.result()
        parts = [mine]
        if dist.is_available() and dist.is_initialized() and trainer.world_size > 1:
            parts = [None] * trainer.world_size
            dist.all_gather_object(parts, mine)
            # those of a pipeline have the same ones
            parts = parts[:: trainer.world_size // share_of_data(trainer)[1]]
        known = [part for part in parts if part is not None]
        if trainer.is_global_zero and len(known) == len(parts):
            said, mistakes, images = join_results(known)
            Predictions(said, class_names(trainer, module), self._place, mistakes, images).save(self.path)


def _has_classes(outputs: Any, batch: Any) -> bool:
    """Whether a step gave logits (B, num_classes), and its targets are class indices."""
    logits = outputs.get("logits") if isinstance(outputs, dict) else None
    targets = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        return False
    return logits.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()


def class_names(trainer: Trainer, module: LightningModule) -> tuple[str, ...]:
    """Names of the classes of a run: the data's; a data module that is not ours need not have them."""
    num_classes = module.hparams["num_classes"]
    names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
    return tuple(map(str, names if names is not None and len(names) == num_classes else range(num_classes)))


def _to_pixels(trainer: Trainer) -> Any:
    """Undoes the normalisation of the data; where it is not known, each image is stretched to 0..1."""
    normalised = getattr(trainer.datamodule, "batch_augment", None)  # type: ignore[attr-defined]
    mean, std = getattr(normalised, "mean", None), getattr(normalised, "std", None)

    def to_pixels(images: Tensor) -> Tensor:
        if isinstance(mean, Tensor) and isinstance(std, Tensor):
            return images * std.to(images.device) + mean.to(images.device)
        low, high = torch.aminmax(images.flatten(1), dim=1)
        low, high = low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1)
        return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)

    return to_pixels
