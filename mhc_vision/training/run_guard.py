"""The directory of a run: one run at a time, and no run over another one unless that is asked for."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.atomic_files import check_writable_directory, remove_leftovers
from mhc_vision.directory_lock import locked_directory
from mhc_vision.run_directory import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    LAST,
    LOSS_FIGURE,
    METRICS_LOG,
    PROBE,
    REPORT,
    REQUEUE_CHECKPOINTS,
    SUMMARY,
)

_ARGUMENT = "trainer.default_root_dir"
# without these there is no run that could be lost
_RECORDS = (METRICS_LOG, SUMMARY, PROBE)
# what only a run that has come to its end has
_OF_THE_END = (SUMMARY, REPORT)
_OTHERS = (CONFIG, REPORT, f"{LOSS_FIGURE}.png", f"{LOSS_FIGURE}.svg")
_FOLDERS = (".", CHECKPOINTS, FIGURES)
# of torchrun and SLURM: how often they have started a job again
_RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
# what versions before temporaries told who wrote them have left, with eight random letters at the end
_OLD_TEMPORARIES = (*(Path(name).name for name in (BEST, LAST)), METRICS_LOG, SUMMARY, PROBE, CONFIG, REPORT)


class RunDirectory:
    """What `train` and `finetune` write a run to.

    Args:
        path: The directory, which need not be there.

    Raises:
        ValueError: If it is no local path.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        if path is None or not os.fspath(path) or "://" in os.fspath(path):
            raise ValueError(f"{_ARGUMENT}: got {path!r}, expected a local directory")
        self.path = Path(path)

    def checkpoints(self) -> list[Path]:
        """The checkpoints, those that SLURM's time limit made included."""
        return sorted([*(self.path / CHECKPOINTS).glob("*.ckpt"), *self.path.glob(REQUEUE_CHECKPOINTS)])

    def records(self) -> list[Path]:
        """Files that there is a run by: its checkpoints and its records."""
        return [*self.checkpoints(), *(path for name in _RECORDS if (path := self.path / name).exists())]

    def is_restarted(self) -> bool:
        """Whether torchrun or SLURM has started this run again: then the same command goes on with it."""
        if any(int(os.environ.get(name) or 0) > 0 for name in _RESTART_COUNTS):
            return True
        return SLURMEnvironment.detect() and any(self.path.glob(REQUEUE_CHECKPOINTS))

    def check(self, resumed: bool, overwrite: bool) -> None:
        """Look whether a run may write here, before any work is done.

        Args:
            resumed: Whether it goes on from a checkpoint.
            overwrite: Whether it may take the place of another run.

        Raises:
            ValueError: If another run would be lost, or nothing can be written.
        """
        if resumed and overwrite:
            raise ValueError("overwrite: got true with a ckpt_path, expected one of them: go on, or start over")
        for folder in (self.path, self.path / CHECKPOINTS):
            check_writable_directory(folder, _ARGUMENT)
        records = self.records()
        if records and not resumed and not overwrite:
            shown = ", ".join(str(path.relative_to(self.path)) for path in records[:4])
            raise ValueError(
                f"{_ARGUMENT}: got {self.path}, which holds a run ({shown}), expected a new directory; give another "
                "--trainer.default_root_dir, go on with --ckpt_path last, or replace the run with --overwrite true"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training here; what killed ones have left half written goes.

        The directory is made, and goes again if nothing was written to it.

        Raises:
            ValueError: Another process trains here.
        """
        made = [folder for folder in (self.path, *self.path.absolute().parents) if not folder.exists()]
        try:
            with locked_directory(self.path, _ARGUMENT, "another run is"):
                self._remove_leftovers()
                yield
        finally:
            for folder in made:
                try:
                    folder.rmdir()
                except OSError:
                    # not empty, or gone: another run, beside this one, may begin or end at this moment
                    break

    def forget_requeue(self) -> None:
        """Removes SLURM's checkpoints, from which Lightning would go on unasked."""
        for path in self.path.glob(REQUEUE_CHECKPOINTS):
            _remove_checkpoint(path)

    def clear(self) -> None:
        """Removes a run: the files that this library writes, and nothing else."""
        for path in self.checkpoints():
            _remove_checkpoint(path)
        for name in (*_RECORDS, *_OTHERS):
            (self.path / name).unlink(missing_ok=True)

    def forget_end(self) -> None:
        """Removes what says that the run has come to its end, as it goes on."""
        for name in _OF_THE_END:
            (self.path / name).unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        for folder in _FOLDERS:
            remove_leftovers(self.path / folder)
            for name in _OLD_TEMPORARIES:
                for path in (self.path / folder).glob(f".{name}.????????"):
                    if path.is_dir():
                        # torch wrote one file into it
                        (path / name).unlink(missing_ok=True)
                        path.rmdir()
                    else:
                        path.unlink()


def _remove_checkpoint(path: Path) -> None:
    # those of sharded models are directories
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class BeginRun(Callback):
    """Before the first step, the run that this one replaces goes, or what its own first part has left at its end.

    A run that never starts changes nothing.

    Args:
        directory: Of the run.
        overwrite: Whether the run takes the place of what is there.
    """

    def __init__(self, directory: RunDirectory, overwrite: bool) -> None:
        self.directory = directory
        self.overwrite = overwrite

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes it."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.begin()

    def begin(self) -> None:
        """Removes it; for what has no training steps."""
        if self.overwrite:
            self.directory.clear()
        else:
            self.directory.forget_end()
