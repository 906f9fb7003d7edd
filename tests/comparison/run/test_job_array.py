"""Runs as jobs, with runs that are small scripts; tests/commands/test_compare_jobs.py has real ones."""

import io
import json
import os
import signal
import sys
import textwrap
import threading
import time

import pytest

from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.run import job as job_module
from mhc_vision.comparison.run import job_array
from mhc_vision.comparison.run.directory import ComparisonDirectory
from mhc_vision.comparison.run.job import RunJob
from mhc_vision.comparison.run.job_array import JobArray
from mhc_vision.comparison.run.progress import Progress
from mhc_vision.comparison.run.runner import ComparisonInterrupted

# what a run of train leaves, see test_runner.py
_SCRIPT = """
import json, os, pathlib, signal, sys, time
run_dir, seed, resume = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
print("resume", resume, "of srun", any(name.startswith("SLURM_") for name in os.environ), flush=True)
{body}
log = {{"step": 0, "train/loss": 1, "val/loss": 1, "val/top1": 0.5}}
(run_dir / "metrics.jsonl").write_text(json.dumps(log) + "\\n")
others = ("steps", "epochs", "params", "gmacs", "images_per_s", "peak_memory_gib", "device", "versions")
(run_dir / "summary.json").write_text(json.dumps({{**dict.fromkeys(others), "seed": seed}}))
"""


@pytest.fixture
def runs(monkeypatch):
    """Has runs be scripts, with a body."""

    def become(body=""):
        def command(cell, run_dir, resume):
            script = _SCRIPT.format(body=textwrap.dedent(body))
            return [sys.executable, "-c", script, str(run_dir), str(cell.seed), str(resume), cell.arm]

        monkeypatch.setattr(job_module, "run_command", command)

    become()
    return become


@pytest.fixture
def directory(tmp_path):
    return ComparisonDirectory(tmp_path / "out")


@pytest.fixture
def matrix(content):
    return parse_matrix({**content, "slurm": {"time": 1}})


class _Queue:
    """A queue whose jobs are numbers, at work until they are taken out of `going_on`."""

    ask_every_s = 0.0

    def __init__(self, going_on=()):
        self.going_on = dict.fromkeys(going_on, "RUNNING")
        self.submitted = []

    def submit(self, functions):
        jobs = [type("Job", (), {"job_id": f"7_{index}"}) for index in range(len(functions))]
        self.submitted += [function.cell.name for function in functions]
        self.going_on |= {job.job_id: "PENDING" for job in jobs}
        return jobs

    def states(self, jobs):
        return {job: self.going_on[job] for job in jobs if job in self.going_on}

    def cancel_command(self, jobs):
        return "scancel 7"


def _array(matrix, directory, launcher="submitit-debug", queue=None, settle_s=0.0):
    array = JobArray(directory, matrix, launcher, Progress(said := io.StringIO()))
    array.settle_s = settle_s
    array._queue = queue or array._queue
    return array, said


def test_runs_are_made_by_jobs_and_reported_as_on_one_machine(matrix, directory, runs, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    runs("if sys.argv[4] == 'mhc' and seed == 0: sys.exit('no memory left')")
    array, said = _array(matrix, directory)
    array.run(matrix)
    assert "[4/4] digits/mhc/seed1: top-1 50.00 %, loss 1.0000" in said.getvalue()
    assert "digits/mhc/seed0: FAILED with status 1: no memory left" in said.getvalue()
    failed = matrix.cells[1]
    assert [cell for cell in matrix.cells if not directory.is_finished(cell)] == [failed]
    assert (directory.run_dir(failed) / "train.log").read_text().startswith("resume True of srun False\n")
    assert not (directory.path / "jobs.json").exists()
    runs()
    array, said = _array(matrix, directory)
    array.run(matrix)
    assert said.getvalue().startswith("4 runs, 3 of them finished earlier\n1 jobs submitted; ")
    assert directory.is_finished(failed)


def test_a_run_killed_behind_its_last_checkpoint_starts_over(matrix, directory, runs):
    runs("if resume: sys.exit()")
    _array(matrix, directory)[0].run(matrix)
    log = (directory.run_dir(matrix.cells[0]) / "train.log").read_text()
    assert [line.split()[1] for line in log.splitlines()] == ["True", "False"]
    assert all(directory.is_finished(cell) for cell in matrix.cells)


def test_ctrl_c_stops_watching_and_the_next_command_submits_what_nobody_works_on(matrix, directory, monkeypatch):
    queue = _Queue()

    def interrupt(progress, running):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "show", interrupt)
        array, said = _array(matrix, directory, queue=queue)
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(ComparisonInterrupted) as stopped:
            array.run(matrix)
    assert signal.getsignal(signal.SIGINT) == before
    assert stopped.value.left == "4 jobs go on, `scancel 7` cancels them"
    assert "4 jobs submitted; Ctrl-C stops watching them, `scancel 7` cancels them" in said.getvalue()
    noted = json.loads((directory.path / "jobs.json").read_text())
    assert noted["jobs"] == {cell.name: f"7_{index}" for index, cell in enumerate(matrix.cells)}

    # the third was killed, and a fourth is pending
    queue = _Queue(["7_0", "7_1", "7_3"])

    def end(progress, running):
        queue.going_on.clear()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "show", end)
        array, said = _array(matrix, directory, queue=queue)
        array.run(matrix)
    assert queue.submitted == [matrix.cells[2].name]
    assert "1 jobs submitted, 3 submitted earlier" in said.getvalue()
    assert said.getvalue().count("FAILED with status 1: the job 7_") == 4
    assert directory.failure(matrix.cells[3]).lines[0].startswith("the job 7_3 ended before the run did: cancelled, ")
    assert not (directory.path / "jobs.json").exists()


def test_records_of_another_machine_may_come_late(matrix, directory, write_run, monkeypatch):
    queue, looks = _Queue(), []

    def arrive(progress, running):
        queue.going_on.clear()
        looks.append(running)
        if len(looks) == 2:
            for cell in matrix.cells:
                write_run(directory.run_dir(cell), cell)

    monkeypatch.setattr(Progress, "show", arrive)
    array, said = _array(matrix, directory, queue=queue, settle_s=60.0)
    array.run(matrix)
    assert "[4/4]" in said.getvalue()
    assert "FAILED" not in said.getvalue()


def test_a_queue_that_does_not_answer_is_asked_again(matrix, directory, write_run, monkeypatch):
    queue = _Queue()
    answers = queue.states

    def fail_once(jobs):
        queue.states = answers
        queue.going_on.clear()
        for cell in matrix.cells:
            write_run(directory.run_dir(cell), cell)
        raise OSError("squeue: no answer")

    submit = queue.submit

    def submit_and_fail(functions):
        queue.states = fail_once
        return submit(functions)

    queue.submit = submit_and_fail
    array, said = _array(matrix, directory, queue=queue)
    array.run(matrix)
    assert "[4/4]" in said.getvalue()
    # but nothing is submitted while it is not known what is at work
    directory.note_jobs("submitit-debug", {matrix.cells[0].name: "7_0"})
    (directory.run_dir(matrix.cells[0]) / "summary.json").unlink()
    array, _ = _array(matrix, directory, queue=queue)
    queue.states = fail_once
    with pytest.raises(ValueError, match="whether earlier jobs are at work is not known: squeue: no answer"):
        array.run(matrix)


def test_jobs_of_another_launcher_are_in_the_way(matrix, directory):
    directory.note_jobs("slurm", {matrix.cells[0].name: "7_0"})
    with pytest.raises(ValueError, match=r"--launcher: got submitit-debug, expected slurm, .* as the jobs 7_0; cancel"):
        _array(matrix, directory)


def test_one_command_at_a_time_watches(matrix, directory):
    array, _ = _array(matrix, directory, queue=_Queue())
    with directory.locked(), pytest.raises(ValueError, match="another comparison"):
        array.run(matrix)


def test_a_job_that_runs_out_of_time_lets_its_run_save_and_goes_on_with_it(matrix, directory, runs, monkeypatch):
    runs(
        """
        def stop(*_):
            time.sleep(0.5)
            (run_dir / "saved").touch()
            sys.exit(130)
        signal.signal(signal.SIGINT, stop)
        if not (run_dir / "saved").exists():
            (run_dir / "ready").touch()
            time.sleep(60)
        """
    )
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "7")
    cell = matrix.cells[0]
    directory.begin(cell)
    run, again = RunJob(directory.path, cell, 0, patience_s=20.0), []

    def time_is_up(*_):
        # as SLURM does, which signals all processes of a job
        os.kill(run._process.pid, signal.SIGUSR2)
        again.append(run.checkpoint())
        raise SystemExit

    def signal_when_ready():
        while not (directory.run_dir(cell) / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, time_is_up)
    threading.Thread(target=signal_when_ready).start()
    try:
        with pytest.raises(SystemExit):
            run()
    finally:
        signal.signal(signal.SIGUSR2, before)
    run._process.wait()
    assert (directory.run_dir(cell) / "saved").exists()
    assert not directory.is_finished(cell)
    assert directory.failure(cell) is None
    again[0].result()
    assert directory.is_finished(cell)


def test_step_times_are_measured_by_a_job(content, directory, monkeypatch):
    matrix = parse_matrix({**content, "equal_time": ["mhc"], "slurm": {"time": 1}})
    array, _ = _array(matrix, directory)
    measured = []
    monkeypatch.setattr(job_array, "measure_step_times", lambda *_: None)
    with pytest.raises(ValueError, match=r"equal_time: the job DEBUG_.* measured nothing; see "):
        array.measure_step_times(matrix)
    monkeypatch.setattr(job_array, "measure_step_times", lambda matrix, directory, slot: measured.append(slot.gpus))
    monkeypatch.setattr(job_array, "read_step_times", _raise_until(measured))
    array.measure_step_times(matrix)
    array.measure_step_times(matrix)
    assert measured == [""]


def _raise_until(measured):
    def read(matrix, directory):
        if not measured:
            raise ValueError("not measured yet")

    return read
