"""Guards a run directory: one run at a time, and none over another unless asked for."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.atomic_files import check_writable_directory, remove_leftovers, replace_text, restore_previous
from mhc_vision.directory_lock import locked_directory
from mhc_vision.run_directory import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    JOBS,
    LAST,
    METRICS_LOG,
    PAGE,
    PREDICTIONS,
    PROBE,
    REPORT,
    REQUEUE_CHECKPOINTS,
    RUN_FIGURES,
    SUMMARY,
)

_ARGUMENT = "trainer.default_root_dir"
# without these there is no run that could be lost
_RECORDS = (METRICS_LOG, SUMMARY, PROBE)
# what only a run that has come to its end has
_OF_THE_END = (SUMMARY, PREDICTIONS, REPORT, PAGE)
_OTHERS = (
    *(CONFIG, JOBS, PREDICTIONS, REPORT, PAGE),
    *(f"{figure}{suffix}" for figure in RUN_FIGURES for suffix in (".png", ".svg")),
)
_FOLDERS = (".", CHECKPOINTS, FIGURES)
# of torchrun and SLURM: what tells one job from another, and the number of its restarts
_JOB_VARIABLES = (("TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_RESTART_COUNT"), ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
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
        """Whether torchrun or SLURM has started this run again: then the same command goes on with it.

        A job whose earlier attempts have trained nothing here, as they were refused or died first, begins anew.
        """
        noted = self.path / JOBS
        trained = noted.read_text(encoding="utf-8").splitlines() if noted.is_file() else []
        if any(restarts > 0 and job in trained for job, restarts in _jobs().items()):
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
            raise ValueError("overwrite: got true with a ckpt_path, expected one of them; go on, or start over")
        for folder in (self.path, self.path / CHECKPOINTS):
            check_writable_directory(folder, _ARGUMENT)
        records = self.records()
        if records and not resumed and not overwrite:
            shown = ", ".join(str(path.relative_to(self.path)) for path in records[:4])
            raise ValueError(
                f"{_ARGUMENT}: got {self.path}, which holds a run ({shown}), expected a new directory; give another "
                "--trainer.default_root_dir, go on with --ckpt_path last, or replace the run with --overwrite true"
            )

    def note_jobs(self, jobs: Iterable[str]) -> None:
        """Writes down in which jobs of torchrun and SLURM the run trains, for `is_restarted`."""
        if jobs := sorted(set(jobs)):
            replace_text(self.path / JOBS, "\n".join(jobs) + "\n")
        else:
            (self.path / JOBS).unlink(missing_ok=True)

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
            restore_previous(self.path / folder)
            remove_leftovers(self.path / folder)
            for name in _OLD_TEMPORARIES:
                for path in (self.path / folder).glob(f".{name}.????????"):
                    if path.is_dir():
                        # torch wrote one file into it
                        (path / name).unlink(missing_ok=True)
                        path.rmdir()
                    else:
                        path.unlink()


def _jobs() -> dict[str, int]:
    """The jobs that this process belongs to, and how many times each has been started again."""
    jobs = {}
    for name, count in _JOB_VARIABLES:
        value, restarts = os.environ.get(name, ""), int(os.environ.get(count) or 0)
        if name == "TORCHELASTIC_ERROR_FILE":
            # DIRECTORY/attempt_N/RANK/error.json; each agent makes a directory, where the run id is "none" by default
            value = value.rpartition(f"{os.sep}attempt_{restarts}{os.sep}")[0]
        if value:
            jobs[f"{name.partition('_')[0].lower()} {value}"] = restarts
    return jobs


def _jobs_of_all_processes() -> list[str]:
    """As `_jobs`, of all processes of the run: agents of torchrun on other nodes have directories of their own."""
    if not (dist.is_available() and dist.is_initialized()):
        return list(_jobs())
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, list(_jobs()))
    return [job for jobs in gathered for job in jobs]


def _remove_checkpoint(path: Path) -> None:
    # those of sharded models are directories
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class BeginRun(Callback):
    """Before the first step, removes the run that this one replaces, or what its own first part has left at its end.

    Notes the job, too. A run that never starts changes nothing.

    Args:
        directory: Of the run.
        overwrite: Whether the run takes the place of what is there.
    """

    def __init__(self, directory: RunDirectory, overwrite: bool) -> None:
        self.directory = directory
        self.overwrite = overwrite

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clears the directory and notes the job; a trial of the code does neither."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.begin(trainer.is_global_zero)

    def begin(self, is_global_zero: bool = True) -> None:
        """As `on_train_start`, which a probe does not come to; to be called by all processes."""
        jobs = _jobs_of_all_processes()
        if not is_global_zero:
            return
        if self.overwrite:
            self.directory.clear()
        else:
            self.directory.forget_end()
        self.directory.note_jobs(jobs)
