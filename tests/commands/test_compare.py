import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mhc_vision.cli import main
from mhc_vision.comparison.plan.matrix import load_matrix
from mhc_vision.metrics_log import read_metric

ROOT = Path(__file__).parents[2]
CONNECTIONS = ROOT / "configs" / "connections"


def _compare(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, words)])
    return stopped.value.code


def test_a_failing_arm_is_reported_and_the_others_finish(write_matrix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    broken = {"config": [str(CONNECTIONS / "mhc.yaml")], "set": {"model.lr": -1}}
    path = write_matrix(arms={"baseline": [str(CONNECTIONS / "baseline.yaml")], "broken": broken}, seeds=[0])
    out = tmp_path / "out"
    assert _compare(path, "--out", out, "--jobs", "2") == 1
    shown = capsys.readouterr()
    assert "digits/broken/seed0: FAILED with status 2: mhc-vision: error: lr: got -1" in shown.out
    assert "1 runs failed: see the report" in shown.err
    text = (out / "report.md").read_text()
    assert "lr: got -1" in text
    record = json.loads((out / "digits" / "baseline" / "seed0" / "summary.json").read_text())
    assert f"{100 * record['metrics']['val/top1']:.2f} ± -" in text
    assert f"{record['params']['total']:,}" in text
    assert (out / "report.html").stat().st_size > 10_000
    # the same from the records alone
    (out / "report.md").unlink()
    assert _compare(path, "--out", out, "--report-only") == 1
    assert (out / "report.md").read_text() == text.replace(" --jobs 2", "")


def _children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def _wait_for_half_a_run(process, out):
    deadline = time.monotonic() + 240
    while not any(not (path.parents[1] / "summary.json").exists() for path in out.rglob("last.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no run wrote a checkpoint"
        time.sleep(0.01)


def _kill(process):
    # stopped first, so that it does not see its runs die
    process.send_signal(signal.SIGSTOP)
    for pid in _children(process):
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_comparison_at_equal_time_goes_on_with_the_steps_it_began_with(write_matrix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    options = {"model.model_args.depth": 1, "trainer.max_epochs": 4, "trainer.limit_train_batches": 20}
    path = write_matrix(equal_time={"arms": ["mhc"], "seconds": 0.1}, seeds=[0], set=options)
    out = tmp_path / "out"
    timed = out / "digits" / "baseline-time-mhc" / "seed0"
    command = [sys.executable, "-m", "mhc_vision", "compare", str(path), "--out", str(out), "--jobs", "3"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (timed / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline, "no run at equal time has validated"
        time.sleep(0.01)
    _kill(process)
    measured = (out / "step_times.json").read_text()
    steps = json.loads((timed / "cell.json").read_text())["options"]["trainer.max_steps"]
    ratio = json.loads(measured)["tasks"]["digits"]["mhc"]["ratio"]
    # four epochs of 20 steps; a multiple of as many validations, or up to twice as many, is at most four away
    assert steps == pytest.approx(80 * ratio, abs=4)
    assert not (timed / "summary.json").exists()

    assert _compare(path, "--out", out, "--report-only") == 2
    assert "without records of" in capsys.readouterr().err
    main(command[3:])
    assert (out / "step_times.json").read_text() == measured
    assert "resuming from" in (timed / "train.log").read_text()
    summary = json.loads((timed / "summary.json").read_text())
    assert summary["steps"] == summary["validated_at_step"] == steps
    # the schedule reaches from the first step to the last, whose rate is that before the end of the cosine
    rates = read_metric(timed / "metrics.jsonl", "train/lr")[1]
    assert len(rates) == steps
    assert max(rates) == pytest.approx(2e-3)
    assert 0 < rates[-1] == min(rates) < 1e-5
    text = (out / "report.md").read_text()
    assert "top-1 at equal time" in text
    assert "measured side by side" in text
    assert (out / "figures" / "digits-val-top1-over-flops.svg").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_killed_comparison_goes_on_and_ends_with_the_figures_of_runs_by_hand(write_matrix, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = {"model.model_args.depth": 1, "trainer.max_epochs": 12, "trainer.limit_train_batches": 20}
    path = write_matrix(set=options)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mhc_vision", "compare", str(path), "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _wait_for_half_a_run(process, out)
    _kill(process)
    left = [run for run in out.glob("digits/*/*") if not (run / "summary.json").exists()]
    assert left

    resumed = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    logs = [(run / "train.log").read_text() for run in left]
    assert any("resuming from" in log for log in logs)
    for cell in load_matrix(path).cells:
        by_hand = tmp_path / "by_hand" / cell.name
        main(["train", *cell.words(by_hand)])
        for key in ("val/top1", "val/loss", "train/loss", "train/grad_norm"):
            logged = read_metric(out / cell.name / "metrics.jsonl", key)
            # the same bits
            assert logged == read_metric(by_hand / "metrics.jsonl", key)


@pytest.mark.slow
def test_a_run_killed_between_its_last_checkpoint_and_its_summary_starts_over(write_matrix, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path, out = write_matrix(arms={"baseline": [str(CONNECTIONS / "baseline.yaml")]}, seeds=[0]), tmp_path / "out"
    run_dir = out / "digits" / "baseline" / "seed0"
    main(["compare", str(path), "--out", str(out)])
    whole = read_metric(run_dir / "metrics.jsonl", "val/loss")
    (run_dir / "summary.json").unlink()
    main(["compare", str(path), "--out", str(out)])
    assert (run_dir / "summary.json").exists()
    assert read_metric(run_dir / "metrics.jsonl", "val/loss") == whole


def test_bad_input_is_a_message(write_matrix, tmp_path, capsys):
    path, out = write_matrix(), tmp_path / "out"
    assert _compare(tmp_path / "no.yaml", "--out", out) == 2
    assert (
        f"mhc-vision: error: matrix: got {tmp_path / 'no.yaml'}, which is no file, expected a YAML"
        in capsys.readouterr().err
    )
    assert _compare(write_matrix(extra=1), "--out", out) == 2
    assert "got the key 'extra'" in capsys.readouterr().err
    write_matrix()
    assert _compare(path, "--out", out, "--report-only") == 2
    assert "without records of 4 of 4 runs" in capsys.readouterr().err
    assert _compare(path, "--out", out, "--jobs", "0") == 2
    assert "--jobs: got 0" in capsys.readouterr().err
    assert _compare(path, "--out", out, "--set", "trainer.max_epochs") == 2
    assert "--set: got 'trainer.max_epochs', expected KEY=VALUE" in capsys.readouterr().err
    assert _compare(path, "--out", out, "--set", "data.seed=1") == 2
    assert "use `seeds`" in capsys.readouterr().err
    assert not out.exists()


def test_the_directory_of_another_matrix_is_refused(write_matrix, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "matrix.json").write_text('{"name": "cifar10"}')
    for words in ([], ["--report-only"]):
        assert _compare(write_matrix(), "--out", out, *words) == 2
        assert f"--out: got {out} with the comparison 'cifar10', expected 'tiny'" in capsys.readouterr().err
    assert [entry.name for entry in out.iterdir()] == ["matrix.json"]
