"""The comparison of loaders runs, and everybody loads the images asked for."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ["torchvision, Pillow", "timm, Pillow", "ours", "ours, normalised on the CPU"]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """In this process: a fresh one would spend most of its time on imports."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["loader.py", *words])
    runpy.run_path(str(BENCHMARKS / "loader.py"), run_name="__main__")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_few_images(
    tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    record = tmp_path / "loader.json"
    setting = ["--images", "8", "--batch-size", "4", "--rounds", "1", "--num-workers", str(num_workers)]
    run(monkeypatch, *setting, "--json", str(record))
    output = capsys.readouterr().out
    assert all(f"| {name}" in output for name in NAMES)
    # about what files of ImageNet have
    assert 90 < int(output.split("made, ")[1].split(" kB")[0]) < 130
    rows = {row["loader"]: row for row in json.loads(record.read_text())["rows"]}
    assert list(rows) == NAMES
    assert rows["torchvision, Pillow"]["ratio to torchvision, Pillow"] == 1
    assert all(row["images/s per worker"] > 0 for row in rows.values())


def test_fewer_images_than_a_batch_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--images", "8")
    assert "expected at least --batch-size=64" in capsys.readouterr().err
