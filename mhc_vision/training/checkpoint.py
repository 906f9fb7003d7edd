"""Checkpoints of a run: which are kept, and how they reach the disk."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mhc_vision.finite import not_finite


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it there, so that a killed run leaves the previous one whole.

    Lightning's own writer goes through the system's temporary directory; where that is another file system, its last
    step is a copy that can be cut short. Paths are local.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Saves `checkpoint` to `path`.

        Raises:
            OSError: If it cannot be written, on a full disk say; what was at `path` is still there.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
                temporary = Path(directory) / path.name
                torch.save(checkpoint, temporary)
                os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            # torch says neither which file it was nor why
            free = shutil.disk_usage(path.parent).free // 2**20
            earlier = "the earlier one is still whole" if path.exists() else "there is no earlier one"
            raise OSError(f"{path} cannot be written, with {free} MiB free; {earlier}: {error}") from error


class BestCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` for which no weights or validation loss that are not finite are ever the best."""

    @property
    def state_key(self) -> str:
        """That of `ModelCheckpoint`, under which checkpoints have the best value so far."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether what was validated is better than what is kept."""
        loss = trainer.callback_metrics.get("val/loss")
        lost = (loss is not None and not bool(loss.isfinite())) or bool(not_finite(trainer.lightning_module))
        # shards of the weights lie in different processes
        if trainer.strategy.reduce_boolean_decision(lost, all=False):
            return False
        return super().check_monitor_top_k(trainer, current)


def checkpoint_callbacks(run_dir: Path, metric: str = "top1") -> list[ModelCheckpoint]:
    """`checkpoints/best.ckpt` by `val/<metric>`, of finite numbers, and `checkpoints/last.ckpt` after every epoch.

    Two callbacks, because one with `save_last` refreshes `last.ckpt` only when the monitored metric improves
    (Lightning 2.6).
    """
    directory = run_dir / "checkpoints"
    return [
        BestCheckpoint(
            dirpath=directory,
            filename="best",
            monitor=f"val/{metric}",
            mode="max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        ),
        ModelCheckpoint(
            dirpath=directory, filename="last", auto_insert_metric_name=False, enable_version_counter=False
        ),
    ]
