"""The runner with runs that are small scripts; tests/commands/test_compare.py has real ones."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.run import runner as runner_module
from mhc_vision.comparison.run.directory import ComparisonDirectory
from mhc_vision.comparison.run.progress import Progress
from mhc_vision.comparison.run.runner import ComparisonInterrupted, Runner, run_command
from mhc_vision.comparison.run.slots import Slot

# writes the records that `write_run` does, by hand, and what it was given into the log
_SCRIPT = """
import json, os, pathlib, sys, time
run_dir, seed, resume = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
print("threads", os.environ["OMP_NUM_THREADS"], "gpus", os.environ["CUDA_VISIBLE_DEVICES"], "resume", resume)
{body}
log = {{"step": 0, "train/loss": 1, "val/loss": 1, "val/top1": 0.5}}
(run_dir / "metrics.jsonl").write_text(json.dumps(log) + "\\n")
others = ("steps", "epochs", "params", "gmacs", "images_per_s", "peak_memory_gib", "device", "versions")
(run_dir / "summary.json").write_text(json.dumps({{**dict.fromkeys(others), "seed": seed}}))
"""


def _run(matrix, directory, body="", num_slots=2):
    """Runs a matrix of scripts with `body` in them; what the progress said."""

    def command(cell, run_dir, resume):
        script = _SCRIPT.format(body=textwrap.dedent(body))
        return [sys.executable, "-c", script, str(run_dir), str(cell.seed), str(resume), cell.arm]

    said = io.StringIO()
    try:
        Runner(directory, [Slot("")] * num_slots, Progress(said), command).run(matrix)
    finally:
        _run.said = said.getvalue()
    return said.getvalue()


@pytest.fixture
def directory(tmp_path):
    return ComparisonDirectory(tmp_path / "out")


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_run_is_started_by_the_command_of_the_matrix(content, tmp_path, command):
    cell = parse_matrix({**content, "command": command}).cells[0]
    words = run_command(cell, tmp_path, resume=True)
    assert words[:5] == [sys.executable, "-m", "mhc_vision", command, "fit"]
    assert words[-2:] == ["--ckpt_path", "last"]
    assert run_command(cell, tmp_path, resume=False) == [*words[:-2], "--overwrite", "true"]


def test_runs_are_started_with_their_share_and_what_is_finished_is_kept(matrix, directory):
    said = _run(matrix, directory)
    assert "[4/4] digits/mhc/seed1: top-1 50.00 %, loss 1.0000" in said
    log = directory.run_dir(matrix.cells[0]) / "train.log"
    assert log.read_text() == "threads 1 gpus  resume True\n"
    (directory.run_dir(matrix.cells[1]) / "summary.json").unlink()
    said = _run(matrix, directory)
    assert said.startswith("4 runs, 3 of them finished earlier\n")
    assert "digits/mhc/seed0: started" in said
    assert said.count("started") == 1
    # nothing was printed again
    assert log.read_text().count("\n") == 1


def test_a_run_that_fails_is_noted_and_does_not_stop_the_others(matrix, directory):
    body = """
    if sys.argv[4] == "mhc" and seed == 0:
        sys.exit("no memory left")
    """
    said = _run(matrix, directory, body)
    assert "digits/mhc/seed0: FAILED with status 1: no memory left" in said
    failed = matrix.cells[1]
    assert [cell for cell in matrix.cells if not directory.is_finished(cell)] == [failed]
    assert directory.failure(failed).lines[-1] == "no memory left"
    _run(matrix, directory)
    assert directory.is_finished(failed)


def test_the_last_line_of_a_failure_is_its_error_not_what_was_printed_before(matrix, directory, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    _run(matrix, directory, "raise RuntimeError('no memory left')")
    assert directory.failure(matrix.cells[0]).lines[-1] == "RuntimeError: no memory left"


def test_a_run_without_the_records_of_a_report_has_failed(matrix, directory):
    body = """
    (run_dir / "metrics.jsonl").write_text('{"step": 0, "train/loss": 1}\\n')
    (run_dir / "summary.json").write_text('{}')
    sys.exit()
    """
    said = _run(matrix, directory, body)
    assert said.count("FAILED with status 0") == 4
    assert "got no steps, epochs, seed" in directory.failure(matrix.cells[0]).lines[0]


def test_a_run_killed_behind_its_last_checkpoint_starts_over(matrix, directory):
    # training that resumes at its end has nothing to do, and writes no summary
    _run(matrix, directory, "if resume: sys.exit()")
    log = (directory.run_dir(matrix.cells[0]) / "train.log").read_text()
    assert [line.split()[-1] for line in log.splitlines()] == ["True", "False"]
    assert all(directory.is_finished(cell) for cell in matrix.cells)


# 0: a run that had nothing left to do when the interrupt came, see above
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGINT, 0)])
def test_an_interrupt_reaches_the_runs_and_leaves_no_failure(matrix, directory, monkeypatch, signum, status):
    body = f"""
    import signal
    def stop(*_):
        (run_dir / "saved").touch()
        sys.exit({status})
    signal.signal(signal.SIGINT, stop)
    (run_dir / "ready").touch()
    time.sleep(60)
    """
    show = Progress.show

    def interrupt_when_ready(progress, running):
        ready = [run_dir for _, run_dir in running if (run_dir / "ready").exists()]
        if len(ready) == 2 and not hasattr(progress, "interrupted"):
            progress.interrupted = True
            os.kill(os.getpid(), signum)
        show(progress, running)

    monkeypatch.setattr(Progress, "show", interrupt_when_ready)
    before = signal.getsignal(signum)
    with pytest.raises(ComparisonInterrupted):
        _run(matrix, directory, body)
    assert signal.getsignal(signum) == before
    started = [directory.run_dir(cell) for cell in matrix.cells if directory.run_dir(cell).exists()]
    assert len(started) == 2
    assert all((run_dir / "saved").exists() for run_dir in started)
    assert not list(directory.path.rglob("failure.json"))
    assert "stopping: 2 runs save a checkpoint" in _run.said
    assert _run.said.count(": stopped\n") == 2


def test_an_error_of_the_runner_ends_its_runs(matrix, directory, monkeypatch):
    def broken(progress, running):
        raise RuntimeError("screen on fire")

    monkeypatch.setattr(Progress, "show", broken)
    with pytest.raises(RuntimeError, match="screen on fire"):
        _run(matrix, directory, "time.sleep(60)\n(run_dir / 'ended').touch()")
    assert not list(directory.path.rglob("ended"))
    with directory.locked():
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")
def test_runs_end_with_a_comparison_that_is_killed(tmp_path):
    log = tmp_path / "log"
    parent = f"""
import os, signal, sys, time
from mhc_vision.comparison.run import child
with open({str(log)!r}, "ab") as log, open({str(tmp_path / "lock")!r}, "w") as lock:
    script = "print('ready', flush=True); import time; time.sleep(60)"
    process = child.start([sys.executable, "-c", script], os.environ, log, lock.fileno())
while not os.path.getsize({str(log)!r}):
    time.sleep(0.05)
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, timeout=120, env=environment
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    deadline = time.monotonic() + 20
    while b"KeyboardInterrupt" not in log.read_bytes():
        assert time.monotonic() < deadline, "the run went on"
        time.sleep(0.05)
    assert int(finished.stdout) > 0


def test_runs_left_behind_hold_the_lock(matrix, directory, monkeypatch):
    monkeypatch.setattr(runner_module, "_POLL_S", 0.01)
    with directory.locked() as lock:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(ValueError, match="runs that a killed one has left, are at work in"):
        _run(matrix, directory)
    process.communicate(b"\n")
    _run(matrix, directory)
    assert json.loads((directory.path / "matrix.json").read_text())["name"] == "tiny"
