"""The table of highest stable learning rates, from logs made up here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stability.py"
FALLING = [2.4 - 0.05 * step for step in range(20)]
NOT_A_NUMBER = [*FALLING[:10], *["nan"] * 10]
RISING = [2.4 + 0.1 * step for step in range(20)]


def write_run(directory: Path, arm: str, losses: list, gain: float | None) -> None:
    run_dir = directory / "branches-48" / arm / "seed0"
    run_dir.mkdir(parents=True)
    (run_dir / "summary.json").write_text("{}")
    lines = [{"step": step, "train/loss": loss, "train/grad_norm": 1.5} for step, loss in enumerate(losses)]
    if gain is not None:
        lines.append({"step": 19, "gain/composite_forward": gain, "gain/composite_backward": 2 * gain})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def table(directory: Path, *words: str) -> list[list[str]]:
    output = subprocess.check_output([sys.executable, str(SCRIPT), str(directory), *words], text=True)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line]


def test_the_highest_learning_rate_up_to_which_no_run_diverges(tmp_path):
    write_run(tmp_path, "baseline-lr1.0e-3", FALLING, None)
    write_run(tmp_path, "baseline-lr2.0e-3", FALLING, None)
    write_run(tmp_path, "mhc-lr1.0e-3", FALLING, 1.0)
    write_run(tmp_path, "mhc-lr2.0e-3", NOT_A_NUMBER, 9.0)
    write_run(tmp_path, "mhc-lr4.0e-3", FALLING, 1.0)
    write_run(tmp_path, "dhc-lr1.0e-3", RISING, 3.0)
    rows = table(tmp_path, "--json", str(tmp_path / "runs.json"))
    best = {row[1]: row for row in rows[2:5]}
    # means of the last two losses: 1.5 and 1.45
    assert best["baseline"][2:] == ["0.002, the highest tried", "1.475", "1.5", "0", "-", "-"]
    assert best["mhc"][2:] == ["0.001", "1.475", "1.5", "0", "1", "2"]
    assert best["dhc"][2:] == ["none", *["-"] * 5]
    diverged = {
        (run["connection"], run["lr"])
        for run in json.loads((tmp_path / "runs.json").read_text())["runs"]
        if run["diverged"]
    }
    assert diverged == {("mhc", 0.002), ("dhc", 0.001)}


def test_steps_that_were_logged_again_count_once(tmp_path):
    write_run(tmp_path, "mhc-lr1.0e-3", FALLING, 1.0)
    log = tmp_path / "branches-48" / "mhc-lr1.0e-3" / "seed0" / "metrics.jsonl"
    # a run that started over: what it logged first, a loss that is no number included, is still in its log
    log.write_text(log.read_text().replace("2.4", '"nan"', 1) + log.read_text())
    assert table(tmp_path)[2][2:] == ["0.001, the highest tried", "1.475", "1.5", "0", "1", "2"]


@pytest.mark.parametrize("arm", [None, "mhc"])
def test_a_directory_of_something_else_is_refused(tmp_path, arm):
    if arm is not None:
        write_run(tmp_path, arm, FALLING, None)
    finished = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "error: directory: " in finished.stderr


def test_a_run_without_a_summary_is_not_left_out_unsaid(tmp_path):
    write_run(tmp_path, "mhc-lr1.0e-3", FALLING, 1.0)
    write_run(tmp_path, "mhc-lr2.0e-3", NOT_A_NUMBER, 9.0)
    (tmp_path / "branches-48" / "mhc-lr2.0e-3" / "seed0" / "summary.json").unlink()
    finished = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "1 runs in" in finished.stderr
