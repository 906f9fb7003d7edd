"""One run of a comparison as a job of a cluster: what submitit executes there."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from mhc_vision.comparison.plan.matrix import Cell
from mhc_vision.comparison.run import child
from mhc_vision.comparison.run.directory import RUN_LOG, ComparisonDirectory
from mhc_vision.comparison.run.runner import note_end, run_command
from mhc_vision.comparison.run.slots import find_slots
from mhc_vision.run_directory import SUMMARY
from mhc_vision.termination import exit_status

_POLL_S = 0.1
_STOPPED = {status for number in (signal.SIGINT, signal.SIGTERM) for status in (exit_status(number), -number)}


class RunJob:
    """Runs a cell in a process of its own, as on one machine, and notes in the comparison's directory how it ended.

    Before its time is up, SLURM signals all processes of a job. submitit then calls `checkpoint` and puts the job back
    into the queue; when it starts again, the run goes on from its newest checkpoint.

    Args:
        path: Of the comparison, on a file system that all machines share.
        cell: The run.
        gpus: GPUs of the run, as of its matrix.
        patience_s: How long a run that is told to stop may take to save a checkpoint.
    """

    def __init__(self, path: Path, cell: Cell, gpus: int, patience_s: float) -> None:
        self.path = path.absolute()
        self.cell = cell
        self.gpus = gpus
        self.patience_s = patience_s
        self._process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Runs what is left of the run; a failure is noted, not raised, and a run that was told to stop is none."""
        directory = ComparisonDirectory(self.path)
        if directory.is_finished(self.cell):
            return
        try:
            slot = find_slots(self.cell.threads, self.gpus, jobs=1)[0]
        except ValueError as error:
            directory.fail(self.cell, 2, str(error))
            return
        # a run starts its own processes: it is no task of srun
        inherited = slot.environment(self.cell.threads)
        environment = {name: value for name, value in inherited.items() if not name.startswith("SLURM_")}
        if JobEnvironment().cluster == "local":
            # SLURM signals the run itself; here it is up to us
            signal.signal(signal.SIGTERM, self._pass_on)
        has_summary = False
        # from the start only where it was killed between its last checkpoint and its summary
        for resume in (True, False):
            status = self._run(directory, environment, resume)
            has_summary = (directory.run_dir(self.cell) / SUMMARY).exists()
            if status or has_summary:
                break
        if has_summary or status not in _STOPPED:
            note_end(directory, self.cell, status)

    def checkpoint(self) -> DelayedSubmission:
        """Lets the run save a checkpoint; what goes on with it when the job starts again."""
        if self._process is not None:
            # this interrupts a wait for the same process, whose lock is taken
            deadline = time.monotonic() + self.patience_s
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process.pid, signal.SIGINT)
                while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(_POLL_S)
        return DelayedSubmission(RunJob(self.path, self.cell, self.gpus, self.patience_s))

    def _run(self, directory: ComparisonDirectory, environment: dict[str, str], resume: bool) -> int:
        run_dir = directory.run_dir(self.cell)
        command = run_command(self.cell, run_dir, resume)
        # the run inherits that it is blocked: SLURM sends it to all processes of a job, and it is meant for this one
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]})
        try:
            with open(run_dir / RUN_LOG, "ab") as log:
                self._process = child.start(command, environment, log, lock=None)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._process.wait()

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signum)
