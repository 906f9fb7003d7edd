"""Submitit's executors for the jobs of a comparison, and which of their jobs are pending or running."""

import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from mhc_vision.checks import check_whole_number, nearest

RUNNING = "RUNNING"
# what submitit has another name for, which all of its executors know
_GENERAL = {"time": "timeout_min", "job_name": "name"}
# what the comparison itself says
_TAKEN = {
    "nodes": "a run is on one node",
    "ntasks_per_node": "a run is one task, which starts its own processes",
    "num_gpus": "use gpus_per_node",
}
_RESTARTS = "max_num_timeout"


def slurm_parameters(given: Mapping[str, Any], threads: int, gpus: int) -> dict[str, Any]:
    """SLURM's arguments of a matrix by the names that submitit has for them.

    Args:
        given: As in the matrix: those of `sbatch` that submitit knows, with `_` for `-`; `time` in minutes.
        threads: CPU threads of a run: its `cpus_per_task` unless they are given.
        gpus: GPUs of a run: its `gpus_per_node` unless GPUs are given in any way.

    Raises:
        ValueError: An argument that submitit does not know or that is not up to the user, or no time in minutes.
    """
    known = sorted({*submitit.SlurmExecutor._valid_parameters(), _RESTARTS} - set(_TAKEN))
    for key in given:
        if key in _TAKEN:
            raise ValueError(f"slurm: got {key}, expected it left out; {_TAKEN[key]}")
        if key not in known:
            raise ValueError(f"slurm: got {key!r}, expected one of {', '.join(known)}{nearest(str(key), known)}")
    if "time" not in given:
        raise ValueError("slurm: got no time, expected the minutes that a job may take, such as {time: 240}")
    for key in ("time", "cpus_per_task", "gpus_per_node", "signal_delay_s", "array_parallelism"):
        if key in given:
            check_whole_number(f"slurm: {key}", given[key], at_least=1)
    check_whole_number(f"slurm: {_RESTARTS}", given.get(_RESTARTS, 0), at_least=0)
    named = {"cpus_per_task": threads, **{_GENERAL.get(key, key): value for key, value in given.items()}}
    named.pop(_RESTARTS, None)
    # since SLURM 22.05, srun does not take it from the job, and would leave one CPU
    named["srun_args"] = [f"--cpus-per-task={named['cpus_per_task']}", *named.get("srun_args", ())]
    if gpus and not any("gpu" in key or key == "gres" for key in named):
        named["gpus_per_node"] = gpus
    general = submitit.AutoExecutor._typed_parameters()
    return {key if key in general else f"slurm_{key}": value for key, value in named.items()}


class JobQueue:
    """Jobs as processes of this machine, all at once: the path of a cluster, to try it.

    Args:
        cluster: Submitit's name of it: `local`, or `debug` for the calling process.
        folder: Of scripts, pickles and logs of jobs.
        given: SLURM's arguments, and `max_num_timeout`: how many times a job that runs out of time is started again.
        threads: CPU threads of a run.
        gpus: GPUs of a run.

    Raises:
        ValueError: The arguments are not as `slurm_parameters` expects them, or submitit refuses a value.
    """

    ask_every_s = 0.5
    """Between two looks at the queue."""

    def __init__(self, cluster: str, folder: Path, given: Mapping[str, Any], threads: int, gpus: int) -> None:
        parameters = slurm_parameters(given, threads, gpus)
        restarts = {f"{name}_{_RESTARTS}": given.get(_RESTARTS, 3) for name in ("slurm", "local")}
        self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **restarts)
        self._own: dict[str, submitit.Job] = {}
        try:
            self._executor.update_parameters(**parameters)
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"slurm: {error}") from error

    def submit(self, functions: Sequence[Callable[[], None]]) -> list[submitit.Job]:
        """One job array with a task for each function."""
        jobs: list[submitit.Job] = self._executor.submit_array(functions)
        self._own |= {job.job_id: job for job in jobs}
        return jobs

    def states(self, jobs: Iterable[str]) -> dict[str, str]:
        """`PENDING`, `RUNNING` or the like, by the ids of those of the jobs that have not ended.

        Raises:
            OSError: The queue does not answer.
        """
        return {job: RUNNING for job in jobs if self._goes_on(job)}

    def cancel_command(self, jobs: Iterable[str]) -> str:
        """What a person types to cancel jobs."""
        return " ".join(["kill", *jobs])

    def _goes_on(self, job: str) -> bool:
        if job in self._own:
            return not self._own[job].done()
        # of an earlier command; another process may have the number by now
        try:
            return b"submitit" in Path(f"/proc/{job}/cmdline").read_bytes()
        except FileNotFoundError:
            return False


class SlurmQueue(JobQueue):
    """SLURM's queue, asked by squeue, which needs no accounting; arguments as of `JobQueue`.

    Raises:
        ValueError: As of `JobQueue`, or there is no SLURM here.
    """

    ask_every_s = 10.0

    def __init__(self, folder: Path, given: Mapping[str, Any], threads: int, gpus: int) -> None:
        if missing := [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]:
            raise ValueError(f"--launcher: got slurm, expected {', '.join(missing)} on this machine, to submit jobs")
        super().__init__("slurm", folder, given, threads, gpus)

    def states(self, jobs: Iterable[str]) -> dict[str, str]:
        """As of `JobQueue`."""
        # of all my jobs: an id that has been forgotten by now would be an error
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode:
            raise OSError(f"squeue: {answer.stderr.strip()}")
        mine = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines())
        return {job: mine[job] for job in jobs if job in mine}

    def cancel_command(self, jobs: Iterable[str]) -> str:
        """As of `JobQueue`: of whole arrays."""
        return " ".join(["scancel", *sorted({job.partition("_")[0] for job in jobs})])
