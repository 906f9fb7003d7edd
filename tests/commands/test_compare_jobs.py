"""`mhc-vision compare` through submitit, with processes as jobs; tests/cluster/run_slurm.sh has a real SLURM."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from mhc_vision.cli import main
from mhc_vision.metrics_log import read_metric

ROOT = Path(__file__).parents[2]
CONNECTIONS = ROOT / "configs" / "connections"
# of the report: what is measured of a machine, and the command
_OF_THE_MACHINE = re.compile(r"^(### Cost|### Price|### Curves)\n.*?(?=^##)|^    mhc-vision compare .*$", re.M | re.S)


@pytest.fixture
def write_matrix(write_matrix, monkeypatch):
    """Writes a tiny matrix of two runs, whose files are named from the repository's folder."""
    monkeypatch.chdir(ROOT)
    return partial(write_matrix, recipes={"digits": ["configs/digits.yaml"]}, seeds=[0], slurm={"time": 30})


def _compare(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, words)])
    return stopped.value.code


def test_a_failing_run_is_reported_as_on_one_machine(write_matrix, tmp_path, capsys):
    broken = {"config": [str(CONNECTIONS / "mhc.yaml")], "set": {"model.lr": -1}}
    path = write_matrix(arms={"baseline": [str(CONNECTIONS / "baseline.yaml")], "broken": broken})
    out = tmp_path / "out"
    assert _compare(path, "--out", out, "--launcher", "submitit-local") == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("tiny: jobs of at most 30 min each\n2 runs\n2 jobs submitted; ")
    assert "digits/broken/seed0: FAILED with status 2: mhc-vision: error: lr: got -1" in shown.out
    assert "[2/2]" in shown.out
    assert "1 runs failed: see the report" in shown.err
    assert "lr: got -1" in (out / "report.md").read_text()
    assert not (out / "jobs.json").exists()


def test_bad_input_is_a_message(write_matrix, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def refused(path, *words):
        assert _compare(path, "--out", out, *words) == 2
        return capsys.readouterr().err

    assert "nearest: slurm" in refused(write_matrix(), "--launcher", "slrum")
    assert "--jobs: got 2 with --launcher slurm" in refused(write_matrix(), "--launcher", "slurm", "--jobs", "2")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "--launcher: got slurm, expected sbatch" in refused(write_matrix(), "--launcher", "slurm")
    path = write_matrix(slurm={"time": 1, "partitoin": "gpu"})
    assert "; nearest: partition" in refused(path, "--launcher", "submitit-local")
    assert "slurm: got no time" in refused(write_matrix(slurm={}), "--launcher", "submitit-local")
    assert "slurm: got 3, expected a mapping" in refused(write_matrix(slurm=3))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refused(write_matrix(), "--launcher", "submitit-local")
    assert "submitit-local needs submitit: pip install 'mhc-vision[cluster]'" in said
    assert not out.exists()


def test_jobs_that_are_at_work_are_in_the_way_of_runs_on_this_machine(write_matrix, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "matrix.json").write_text('{"name": "tiny"}')
    (out / "jobs.json").write_text('{"launcher": "slurm", "jobs": {"digits/mhc/seed0": "7_0"}}')
    assert _compare(write_matrix(), "--out", out) == 2
    assert "--launcher: got local, expected slurm, with which runs were submitted as the jobs 7_0" in (
        capsys.readouterr().err
    )


def _tree(pid):
    """A process and those below it."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(process for child in children for process in _tree(child))]


def _wait_for_half_runs(process, out):
    deadline = time.monotonic() + 600
    while len(list(out.rglob("last.ckpt"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline, "no run wrote a checkpoint"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_jobs_that_are_watched_again_and_killed_end_with_the_report_of_one_machine(write_matrix, tmp_path):
    options = {"model.model_args.depth": 1, "trainer.max_epochs": 16, "trainer.limit_train_batches": 20}
    path, out, here = write_matrix(set=options), tmp_path / "out", tmp_path / "here"
    command = [sys.executable, "-m", "mhc_vision", "compare", str(path), "--out", str(out)]
    command += ["--launcher", "submitit-local"]
    said = tmp_path / "said"

    def start():
        # no pipe, which the jobs would keep open
        with said.open("w") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    process = start()
    _wait_for_half_runs(process, out)
    jobs = list(json.loads((out / "jobs.json").read_text())["jobs"].values())
    # the end of its time for one of them: it starts again
    (task,) = _tree(int(jobs[0]))[1:2]
    os.kill(task, signal.SIGUSR2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    words = f"interrupted: 0 of 2 runs finished; 2 jobs go on, `kill {' '.join(jobs)}` cancels them; go on with"
    assert words in said.read_text()

    process = start()
    log = out / "digits" / "baseline" / "seed0" / "train.log"
    deadline = time.monotonic() + 600
    while "resuming from" not in log.read_text():
        assert time.monotonic() < deadline, "the job did not start again"
        time.sleep(0.01)
    for pid in [process.pid, *(pid for job in jobs if Path(f"/proc/{job}").exists() for pid in _tree(int(job)))]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert "0 jobs submitted, 2 submitted earlier" in said.read_text()

    assert start().wait(timeout=600) == 0, said.read_text()
    assert log.read_text().count("resuming from") >= 2
    main(["compare", str(path), "--out", str(here), "--jobs", "2"])
    for run in ("digits/baseline/seed0", "digits/mhc/seed0"):
        for key in ("val/top1", "val/loss", "train/loss", "train/grad_norm"):
            # the same bits
            assert read_metric(out / run / "metrics.jsonl", key) == read_metric(here / run / "metrics.jsonl", key)
    reports = [_OF_THE_MACHINE.sub("", (folder / "report.md").read_text()) for folder in (out, here)]
    assert reports[0] == reports[1]
    assert "### Final values" in reports[0]
