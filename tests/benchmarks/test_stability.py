"""The table of highest stable learning rates, from logs made up here."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture
def table(run_script, capsys) -> Callable[..., list[list[str]]]:
    def run(directory: Path, *words: object) -> list[list[str]]:
        run_script("stability.py", directory, *words)
        lines = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]

    return run


@pytest.fixture
def refused(run_script, capsys) -> Callable[[Path], str]:
    """The message about a directory that the script does not take."""

    def run(directory: Path) -> str:
        with pytest.raises(SystemExit) as stopped:
            run_script("stability.py", directory)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


def test_the_highest_learning_rate_up_to_which_no_run_diverges(table, tmp_path):
    write_run(tmp_path, "baseline-lr1.0e-3", FALLING, None)
    write_run(tmp_path, "baseline-lr2.0e-3", FALLING, None)
    write_run(tmp_path, "mhc-lr1.0e-3", FALLING, 1.0)
    write_run(tmp_path, "mhc-lr2.0e-3", NOT_A_NUMBER, 9.0)
    write_run(tmp_path, "mhc-lr4.0e-3", FALLING, 1.0)
    write_run(tmp_path, "dhc-lr1.0e-3", RISING, 3.0)
    rows = table(tmp_path, "--json", tmp_path / "runs.json")
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


def test_steps_that_were_logged_again_count_once(table, tmp_path):
    write_run(tmp_path, "mhc-lr1.0e-3", FALLING, 1.0)
    log = tmp_path / "branches-48" / "mhc-lr1.0e-3" / "seed0" / "metrics.jsonl"
    # a run that started over: what it logged first, a loss that is no number included, is still in its log
    log.write_text(log.read_text().replace("2.4", '"nan"', 1) + log.read_text())
    assert table(tmp_path)[2][2:] == ["0.001, the highest tried", "1.475", "1.5", "0", "1", "2"]


@pytest.mark.parametrize("arm", [None, "mhc"])
def test_a_directory_of_something_else_is_refused(refused, tmp_path, arm):
    if arm is not None:
        write_run(tmp_path, arm, FALLING, None)
    assert "error: directory: " in refused(tmp_path)


def test_a_run_without_a_summary_is_not_left_out_unsaid(refused, tmp_path):
    write_run(tmp_path, "mhc-lr1.0e-3", FALLING, 1.0)
    write_run(tmp_path, "mhc-lr2.0e-3", NOT_A_NUMBER, 9.0)
    (tmp_path / "branches-48" / "mhc-lr2.0e-3" / "seed0" / "summary.json").unlink()
    assert "got 1 runs without summary.json" in refused(tmp_path)
