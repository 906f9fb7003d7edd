"""Packs the records of a comparison made up here, and unpacks them again."""

import json
from pathlib import Path

import pytest

LOG = [
    {"step": 0, "train/loss": 2.3, "gain/forward/03": 1.25, "gain/composite_forward": 1.5},
    {"step": 1, "val/top1": 0.123456789, "val/loss": "nan"},
]


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """A comparison with a finished run, one that has failed and one that has been stopped."""
    directory = tmp_path / "comparison"
    for seed in range(3):
        run = directory / "cifar10" / "mhc" / f"seed{seed}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "cell.json").write_text(json.dumps({"task": "cifar10", "arm": "mhc", "seed": seed}))
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
        if seed < 2:
            (run / "summary.json").write_text(json.dumps({"steps": 2}))
    (directory / "cifar10/mhc/seed1/failure.json").write_text("{}")
    (directory / "matrix.json").write_text(json.dumps({"name": "verdict"}))
    (directory / "step_times.json").write_text(json.dumps({"tasks": {}}))
    return directory


def test_finished_runs_come_back(comparison, tmp_path, run_script):
    packed, unpacked = tmp_path / "records" / "verdict.json", tmp_path / "unpacked"
    run_script("study_records.py", "pack", comparison, packed)
    assert list(json.loads(packed.read_text())["runs"]) == ["cifar10/mhc/seed0"]
    run_script("study_records.py", "unpack", packed, unpacked)
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    records = {f"cifar10/mhc/seed0/{name}" for name in ("cell.json", "summary.json", "metrics.jsonl")}
    assert files == {"matrix.json", "step_times.json", *records}
    for name in files - {"cifar10/mhc/seed0/metrics.jsonl"}:
        assert json.loads((unpacked / name).read_text()) == json.loads((comparison / name).read_text())
    lines = [json.loads(line) for line in (unpacked / "cifar10/mhc/seed0/metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 0, "train/loss": 2.3, "gain/composite_forward": 1.5},
        {"step": 1, "val/top1": 0.1234568, "val/loss": "nan"},
    ]


def test_records_stay_below_their_directory(tmp_path, run_script, capsys):
    packed = tmp_path / "records.json"
    packed.write_text(json.dumps({"matrix.json": {}, "runs": {"../../elsewhere/x": {}}}))
    with pytest.raises(SystemExit) as stopped:
        run_script("study_records.py", "unpack", packed, tmp_path / "unpacked")
    assert stopped.value.code == 2
    assert "runs: got the name '../../elsewhere/x', expected task/arm/seed0" in capsys.readouterr().err
    assert not (tmp_path / "unpacked").exists()


def test_a_directory_with_something_in_it_is_left_alone(comparison, tmp_path, run_script, capsys):
    packed = tmp_path / "records.json"
    run_script("study_records.py", "pack", comparison, packed)
    with pytest.raises(SystemExit) as stopped:
        run_script("study_records.py", "unpack", packed, comparison)
    assert stopped.value.code == 2
    assert "which is not empty, expected a new one" in capsys.readouterr().err
