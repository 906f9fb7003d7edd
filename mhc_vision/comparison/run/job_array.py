"""Runs the cells of a matrix as the jobs of a cluster: submits what nobody works on, and watches all of it."""

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

from mhc_vision.comparison.plan.matrix import Cell, Matrix
from mhc_vision.comparison.run.directory import JOB_FILES, ComparisonDirectory
from mhc_vision.comparison.run.job import RunJob
from mhc_vision.comparison.run.job_queue import RUNNING, JobQueue, SlurmQueue
from mhc_vision.comparison.run.progress import Progress
from mhc_vision.comparison.run.runner import ComparisonInterrupted, note_end
from mhc_vision.comparison.run.slots import find_slots
from mhc_vision.comparison.run.step_times import measure_step_times, read_step_times
from mhc_vision.progress import note
from mhc_vision.termination import Terminated

_CLUSTERS = {"submitit-local": "local", "submitit-debug": "debug"}
_POLL_S = 0.2
# SLURM signals 90 seconds before the end unless told otherwise; the rest is for putting the job back into the queue
_SIGNAL_DELAY_S = 90
_PART_TO_SAVE = 0.8


class JobArray:
    """Has jobs run what is not finished, and waits for them; Ctrl-C ends the waiting only.

    `jobs.json` in the comparison's directory says which jobs they are, for the next command.

    Args:
        directory: Of the comparison, on a file system that the cluster's machines share.
        matrix: Whose runs they will be.
        launcher: `slurm`; or `submitit-local` and `submitit-debug` for submitit's own executors, to try it.
        progress: Is told what happens.

    Raises:
        ValueError: There is no SLURM here, its arguments are not as expected, or jobs of another launcher are at work.
    """

    settle_s = 20.0
    """How long after the end of a job another machine's records may become visible here."""

    def __init__(self, directory: ComparisonDirectory, matrix: Matrix, launcher: str, progress: Progress) -> None:
        self.directory = directory
        self.progress = progress
        self._launcher = launcher
        self._gpus = matrix.gpus
        self._patience_s = _PART_TO_SAVE * matrix.slurm.get("signal_delay_s", _SIGNAL_DELAY_S)
        directory.jobs(launcher)
        given = {"job_name": matrix.name, **matrix.slurm}
        arguments = (directory.path / JOB_FILES, given, matrix.threads, matrix.gpus)
        self._queue = SlurmQueue(*arguments) if launcher == "slurm" else JobQueue(_CLUSTERS[launcher], *arguments)
        self._jobs: dict[Cell, str] = {}
        self._started: dict[Cell, float] = {}
        self._gone: dict[Cell, float] = {}
        self._began = time.monotonic()

    def measure_step_times(self, matrix: Matrix) -> None:
        """As the function of that name, by a job, where something is missing; Ctrl-C cancels it.

        Raises:
            ValueError: The directory is of another matrix, or the job has measured nothing.
        """
        self.directory.check(matrix)
        if _is_measured(matrix, self.directory):
            return
        measure = partial(_measure_step_times, matrix, ComparisonDirectory(self.directory.path.absolute()))
        (job,) = self._queue.submit([measure])
        note(f"the job {job.job_id} measures step times")
        try:
            while self._states([job.job_id]):
                time.sleep(self._queue.ask_every_s)
        except KeyboardInterrupt:
            job.cancel(check=False)
            raise
        deadline = time.monotonic() + self.settle_s
        while not _is_measured(matrix, self.directory):
            if time.monotonic() > deadline:
                raise ValueError(f"equal_time: the job {job.job_id} measured nothing; see {self._log(job.job_id)}")
            time.sleep(_POLL_S)

    def run(self, matrix: Matrix) -> None:
        """Submits and waits for the runs of a matrix.

        Raises:
            ValueError: The directory is of another matrix, others watch it, or the queue does not answer.
            ComparisonInterrupted: After SIGINT or SIGTERM; the jobs go on.
        """
        self.directory.check(matrix)
        with self.directory.locked():
            self.directory.claim(matrix)
            pending = [cell for cell in matrix.cells if not self.directory.is_finished(cell)]
            self.progress.begin(len(matrix.cells), len(matrix.cells) - len(pending))
            self._submit(pending)
            try:
                self._watch()
            except KeyboardInterrupt as stop:
                left = f"{len(self._jobs)} jobs go on, `{self._queue.cancel_command(self._jobs.values())}` cancels them"
                signum = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
                raise ComparisonInterrupted(signum, left) from None
            self.directory.note_jobs(self._launcher, {})

    def _submit(self, pending: list[Cell]) -> None:
        noted = self.directory.jobs(self._launcher)
        try:
            going_on = self._queue.states(noted.values())
        except OSError as error:
            raise ValueError(f"--launcher: whether earlier jobs are at work is not known: {error}") from error
        self._jobs = {cell: noted[cell.name] for cell in pending if noted.get(cell.name) in going_on}
        new = [cell for cell in pending if cell not in self._jobs]
        earlier = len(self._jobs)
        if new:
            for cell in new:
                self.directory.begin(cell)
            with _without_interrupts():
                runs = [RunJob(self.directory.path, cell, self._gpus, self._patience_s) for cell in new]
                self._jobs |= {cell: job.job_id for cell, job in zip(new, self._queue.submit(runs), strict=True)}
                self.directory.note_jobs(self._launcher, {cell.name: job for cell, job in self._jobs.items()})
        if self._jobs:
            self.progress.submitted(len(new), earlier, self._queue.cancel_command(self._jobs.values()))

    def _watch(self) -> None:
        asked = float("-inf")
        while self._jobs:
            now = time.monotonic()
            if now - asked >= self._queue.ask_every_s:
                asked = now
                states = self._states(self._jobs.values())
                for cell in list(self._jobs):
                    self._look(cell, states)
            self.progress.show([(cell, self.directory.run_dir(cell)) for cell in self._started if cell in self._jobs])
            time.sleep(_POLL_S)

    def _states(self, jobs: Collection[str]) -> dict[str, str]:
        """As the queue says; where it does not answer, all of them may go on."""
        try:
            return self._queue.states(jobs)
        except OSError as error:
            note(f"the queue is asked again: {error}")
            return dict.fromkeys(jobs, "UNKNOWN")

    def _look(self, cell: Cell, states: dict[str, str]) -> None:
        job, now = self._jobs[cell], time.monotonic()
        if job in states:
            self._gone.pop(cell, None)
            if states[job] == RUNNING and cell not in self._started:
                self._started[cell] = now
                self.progress.started(cell)
            return
        seconds = now - self._started.get(cell, self._began)
        failure = self.directory.failure(cell)
        if failure is not None:
            self.progress.failed(cell, failure)
        elif self.directory.is_finished(cell):
            self.progress.ended(cell, note_end(self.directory, cell, 0), seconds)
        elif now - self._gone.setdefault(cell, now) < self.settle_s:
            return
        else:
            reason = f"the job {job} ended before the run did: cancelled, out of time, or killed; see {self._log(job)}"
            self.progress.failed(cell, self.directory.fail(cell, 1, reason))
        del self._jobs[cell]

    def _log(self, job: str) -> str:
        return str(self.directory.path / JOB_FILES / f"{job}_0_log.err")


def _measure_step_times(matrix: Matrix, directory: ComparisonDirectory) -> None:
    """What a job does."""
    measure_step_times(matrix, directory, find_slots(matrix.threads, matrix.gpus, jobs=1)[0])


def _is_measured(matrix: Matrix, directory: ComparisonDirectory) -> bool:
    try:
        read_step_times(matrix, directory)
    except ValueError:
        return False
    return True


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C does nothing in here, nor to processes that are started in here: no job is submitted and not noted."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
