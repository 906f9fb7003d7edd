"""The directory of a comparison: which matrix it is of, how its runs ended, and which jobs are at work on them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.comparison.plan.matrix import Cell, Matrix
from mhc_vision.directory_lock import LOCK_FILE, locked_directory
from mhc_vision.json_files import read_json_object
from mhc_vision.run_directory import CHECKPOINTS, METRICS_LOG, SUMMARY

MATRIX = "matrix.json"
CELL = "cell.json"
FAILURE = "failure.json"
JOBS = "jobs.json"
JOB_FILES = ".jobs"
"""Folder of scripts, pickles and logs of jobs."""

RUN_LOG = "train.log"
_TAIL_LINES = 12


@dataclass(frozen=True)
class Failure:
    """How a run ended that did not come to its end: its exit status, and the last lines of its log."""

    status: int
    lines: tuple[str, ...]


class ComparisonDirectory:
    """`<task>/<arm>/seed<k>/` for each run, `matrix.json`, and `jobs.json` while runs are jobs of a cluster.

    A run directory holds `cell.json` (what the run is), `train.log` (what it printed), `failure.json` where it failed,
    and what `train` or `finetune` writes.

    Args:
        path: The directory, made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def run_dir(self, cell: Cell) -> Path:
        """Where a run writes."""
        return self.path / cell.name

    def is_finished(self, cell: Cell) -> bool:
        """Whether a run has come to its end."""
        return (self.run_dir(cell) / SUMMARY).is_file() and self.failure(cell) is None

    def failure(self, cell: Cell) -> Failure | None:
        """How a run failed, if it did."""
        path = self.run_dir(cell) / FAILURE
        if not path.is_file():
            return None
        record = read_json_object("--out", path, ("status", "lines"))
        return Failure(record["status"], tuple(record["lines"]))

    def check(self, matrix: Matrix) -> None:
        """Look whether the directory is that of this matrix, perhaps with fewer or more seeds, arms or tasks.

        Raises:
            ValueError: It is of another matrix, or of something else.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self._others())):
            return
        record_path = self.path / MATRIX
        if not record_path.is_file():
            raise ValueError(
                f"--out: got {self.path} without {MATRIX}, expected a new directory, or that of a comparison"
            )
        name = read_json_object("--out", record_path, ("name",))["name"]
        if name != matrix.name:
            raise ValueError(f"--out: got {self.path} with the comparison {name!r}, expected {matrix.name!r}")
        for cell in matrix.cells:
            self._check_cell(cell)

    def claim(self, matrix: Matrix) -> None:
        """Writes `matrix.json`."""
        record = {
            "name": matrix.name,
            "command": matrix.command,
            "tasks": matrix.tasks,
            "arms": matrix.arms,
            "excluded": {task: arms for task in matrix.tasks if (arms := matrix.excluded_arms(task))},
            "baseline": matrix.baseline,
            "seeds": matrix.seeds,
            "threads": matrix.threads,
            "gpus": matrix.gpus,
        }
        replace_text(self.path / MATRIX, json_text(record, indent=2) + "\n")

    def begin(self, cell: Cell) -> None:
        """Notes what a run is, before it starts; an earlier failure is forgotten."""
        run_dir = self.run_dir(cell)
        replace_text(run_dir / CELL, json_text(cell.identity(), indent=2) + "\n")
        (run_dir / FAILURE).unlink(missing_ok=True)

    def fail(self, cell: Cell, status: int, reason: str | None = None) -> Failure:
        """Notes that a run failed, with the end of what it printed, or with `reason`."""
        log = self.run_dir(cell) / RUN_LOG
        printed = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        lines = [reason] if reason else [line for line in printed if line.strip()][-_TAIL_LINES:]
        replace_text(self.run_dir(cell) / FAILURE, json_text({"status": status, "lines": lines}, indent=2) + "\n")
        return Failure(status, tuple(lines))

    def jobs(self, launcher: str) -> dict[str, str]:
        """Ids of the jobs that were submitted and not seen to end, by the name of their run.

        Raises:
            ValueError: There are some of another launcher.
        """
        if not (self.path / JOBS).is_file():
            return {}
        record = read_json_object("--out", self.path / JOBS, ("launcher", "jobs"))
        if record["launcher"] != launcher:
            raise ValueError(
                f"--launcher: got {launcher}, expected {record['launcher']}, with which runs were submitted as the "
                f"jobs {', '.join(record['jobs'].values())}; cancel them and remove {self.path / JOBS} to change it"
            )
        return dict(record["jobs"])

    def note_jobs(self, launcher: str, jobs: Mapping[str, str]) -> None:
        """Writes down which jobs are at work, for `jobs`; none removes the record."""
        if jobs:
            replace_text(self.path / JOBS, json_text({"launcher": launcher, "jobs": dict(jobs)}, indent=2) + "\n")
        else:
            (self.path / JOBS).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """The lock of the directory, as an open file that runs inherit: they hold it, too, as long as they live.

        `None` where the file system has no locks.

        Raises:
            ValueError: Another comparison, or runs that a killed one has left, are at work in the directory.
        """
        what = "another comparison, or runs that a killed one has left, are"
        with locked_directory(self.path, "--out", what, inherited=True) as lock:
            yield lock

    def _others(self) -> Iterator[Path]:
        return (entry for entry in self.path.iterdir() if entry.name not in (LOCK_FILE, JOB_FILES))

    def _check_cell(self, cell: Cell) -> None:
        run_dir = self.run_dir(cell)
        # a run without a first step has nothing to keep: it may become another one
        if not any((run_dir / name).exists() for name in (SUMMARY, METRICS_LOG, CHECKPOINTS)):
            return
        if not (run_dir / CELL).is_file():
            raise ValueError(f"--out: got {run_dir} without {CELL}, expected a run that a comparison made")
        stored = read_json_object("--out", run_dir / CELL)
        if difference := first_difference(stored, cell.identity()):
            raise ValueError(f"--out: got {run_dir} of another matrix, expected this one: {difference}")


def first_difference(stored: Any, given: Any, where: str = "") -> str | None:
    """In words, where two JSON values differ first; `None` where they do not."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in sorted(set(stored) | set(given)):
            path = f"{where}.{key}" if where else key
            if key not in stored or key not in given:
                side, value = ("given", given[key]) if key in given else ("stored", stored[key])
                return f"{path} is only {side} ({value!r})"
            if difference := first_difference(stored[key], given[key], path):
                return difference
        return None
    if isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        for index, (old, new) in enumerate(zip(stored, given, strict=True)):
            if difference := first_difference(old, new, f"{where}[{index}]"):
                return difference
        return None
    return None if stored == given else f"{where} was {stored!r}, now it is {given!r}"
