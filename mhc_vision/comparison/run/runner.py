"""Runs the cells of a matrix, several at a time, each in a process of its own."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mhc_vision.comparison.plan.matrix import Cell, Matrix
from mhc_vision.comparison.run import child
from mhc_vision.comparison.run.directory import RUN_LOG, ComparisonDirectory, Failure
from mhc_vision.comparison.run.progress import Progress
from mhc_vision.comparison.run.records import RunRecord, read_record
from mhc_vision.comparison.run.slots import Slot
from mhc_vision.run_directory import NEWEST, SUMMARY

_POLL_S = 0.1


class ComparisonInterrupted(BaseException):
    """The comparison was asked to stop, and its runs have stopped. Not an error, so not an `Exception`.

    Attributes:
        signum: What asked for it last, SIGINT or SIGTERM.
        left: What goes on all the same, in words.
    """

    def __init__(self, signum: int, left: str = "") -> None:
        super().__init__()
        self.signum = signum
        self.left = left


def run_command(cell: Cell, run_dir: Path, resume: bool) -> list[str]:
    """The command line of a run; with `resume` from its newest checkpoint, if there is one, else from the start."""
    start = ("--ckpt_path", NEWEST) if resume else ("--overwrite", "true")
    return [sys.executable, "-m", "mhc_vision", cell.command, *cell.words(run_dir), *start]


def note_end(directory: ComparisonDirectory, cell: Cell, status: int) -> RunRecord | Failure:
    """What a run has left that ended with an exit status; a failure is written down."""
    if status != 0:
        return directory.fail(cell, status)
    try:
        return read_record(cell, directory.run_dir(cell))
    except ValueError as error:
        return directory.fail(cell, status, str(error))


@dataclass
class _Run:
    cell: Cell
    slot: Slot
    process: subprocess.Popen
    resumed: bool
    started: float


class Runner:
    """Runs what is not finished; a run that fails is noted and does not stop the others.

    SIGINT and SIGTERM are passed on as SIGINT, after which a run saves a checkpoint and stops.

    Args:
        directory: Of the comparison.
        slots: Where runs go; there are as many at a time.
        progress: Is told what happens.
        command: Makes the command line of a run from the run, its directory and whether it may go on from a checkpoint.
    """

    def __init__(
        self,
        directory: ComparisonDirectory,
        slots: Sequence[Slot],
        progress: Progress,
        command: Callable[[Cell, Path, bool], list[str]] = run_command,
    ) -> None:
        self.directory = directory
        self.progress = progress
        self._command = command
        self._free = list(slots)
        self._running: list[_Run] = []
        # stops asked for, and passed on to the runs
        self._requests = self._told = 0
        self._signum = signal.SIGINT

    @property
    def _stopping(self) -> bool:
        return self._requests > 0

    def run(self, matrix: Matrix) -> None:
        """Runs the cells of a matrix.

        Raises:
            ValueError: The directory is of another matrix, or others are at work in it.
            ComparisonInterrupted: After SIGINT or SIGTERM, when all runs have ended.
        """
        self.directory.check(matrix)
        with self.directory.locked() as lock:
            self.directory.claim(matrix)
            pending = [cell for cell in matrix.cells if not self.directory.is_finished(cell)]
            self.progress.begin(len(matrix.cells), len(matrix.cells) - len(pending))
            with self._signals():
                self._work(pending, lock)
        if self._stopping:
            raise ComparisonInterrupted(self._signum)

    def _work(self, pending: list[Cell], lock: int | None) -> None:
        try:
            while self._running or (pending and not self._stopping):
                while pending and self._free and not self._stopping:
                    self._start(pending.pop(0), self._free.pop(0), True, lock)
                time.sleep(_POLL_S)
                self._pass_requests_on()
                for run in [run for run in self._running if run.process.poll() is not None]:
                    self._running.remove(run)
                    if self._must_start_over(run):
                        self._start(run.cell, run.slot, False, lock)
                    else:
                        self._free.append(run.slot)
                        self._end(run)
                self.progress.show([(run.cell, self.directory.run_dir(run.cell)) for run in self._running])
        finally:
            # after an error of our own: nothing goes on unnoticed
            for run in self._running:
                run.process.send_signal(signal.SIGINT)
            for run in self._running:
                run.process.wait()

    def _start(self, cell: Cell, slot: Slot, resume: bool, lock: int | None) -> None:
        self.directory.begin(cell)
        run_dir = self.directory.run_dir(cell)
        command = self._command(cell, run_dir, resume)
        with open(run_dir / RUN_LOG, "ab") as log:
            process = child.start(command, slot.environment(cell.threads), log, lock)
        self._running.append(_Run(cell, slot, process, resume, time.monotonic()))
        self.progress.started(cell)

    def _must_start_over(self, run: _Run) -> bool:
        """Whether a run was killed between its last checkpoint and its summary: then nothing is left to resume."""
        return run.resumed and not self._stopping and run.process.returncode == 0 and not self._has_summary(run)

    def _has_summary(self, run: _Run) -> bool:
        return (self.directory.run_dir(run.cell) / SUMMARY).exists()

    def _end(self, run: _Run) -> None:
        seconds = time.monotonic() - run.started
        status = run.process.returncode
        if self._stopping and (status != 0 or not self._has_summary(run)):
            self.progress.stopped(run.cell)
            return
        self.progress.ended(run.cell, note_end(self.directory, run.cell, status), seconds)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._requests += 1
        self._signum = signal.Signals(signum)

    def _pass_requests_on(self) -> None:
        if self._told == self._requests:
            return
        self._told = self._requests
        self.progress.stopping(len(self._running))
        for run in self._running:
            if run.process.poll() is None:
                run.process.send_signal(signal.SIGINT)
