"""Checkpoints of a run: which are kept, and how they reach the disk."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from mhc_vision.atomic_files import replace_directory, replaced_file, temporary_directory
from mhc_vision.finite import not_finite
from mhc_vision.run_directory import BEST, CHECKPOINTS, LAST


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
            raise TypeError(f"storage_options: got {storage_options!r}, expected None: checkpoints are local files")
        path = Path(path)
        try:
            with replaced_file(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:
            # torch says neither which file it was nor why
            there = next(folder for folder in path.absolute().parents if folder.exists())
            free = shutil.disk_usage(there).free // 2**20
            earlier = "the earlier one is still whole" if path.exists() else "there is no earlier one"
            raise OSError(f"{path} cannot be written, with {free} MiB free; {earlier}: {error}") from error


class ShardingStrategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy`; a sharded checkpoint takes the place of another when it is complete.

    A killed run thus leaves the previous one whole, as with `AtomicCheckpointIO`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves to a file, or each process its part to a directory of that name."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        path = Path(filepath)
        temporary = self.broadcast(temporary_directory(path) if self.is_global_zero else path)
        super().save_checkpoint(checkpoint, temporary, storage_options)
        # what is beside the shards is the first process's
        if self.is_global_zero:
            replace_directory(temporary, path)
        self.barrier()


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


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt` at the end of every epoch and of the run, and after each validation within an epoch.

    A run may end where nothing is validated: `max_steps` within an epoch, or an epoch whose last validation was some
    batches ago. What is tested and summarised then is in this file. It is written before the end of training, at
    which `EMA` puts the average in the place of the weights.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(
            dirpath=directory, filename=Path(LAST).stem, auto_insert_metric_name=False, enable_version_counter=False
        )

    @property
    def state_key(self) -> str:
        """That of `ModelCheckpoint`, as in earlier checkpoints."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what is not saved yet; called at the end of every epoch, also of one that the run's end cut short."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def checkpoint_callbacks(run_dir: Path, metric: str = "top1") -> list[ModelCheckpoint]:
    """`checkpoints/best.ckpt` by `val/<metric>`, of finite numbers, and `checkpoints/last.ckpt`.

    Two callbacks, because one with `save_last` refreshes `last.ckpt` only when the monitored metric improves
    (Lightning 2.6).
    """
    directory = run_dir / CHECKPOINTS
    return [
        BestCheckpoint(
            dirpath=directory,
            filename=Path(BEST).stem,
            monitor=f"val/{metric}",
            mode="max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        ),
        LastCheckpoint(directory),
    ]
