"""The comparison of loaders runs, and everybody loads the images asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

NAMES = ["torchvision, Pillow", "timm, Pillow", "ours", "ours, normalised on the CPU"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_few_images(
    tmp_path: Path, num_workers: int, run_script: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    record = tmp_path / "loader.json"
    setting = ["--images", "8", "--batch-size", "4", "--rounds", "1", "--num-workers", str(num_workers)]
    run_script("loader.py", *setting, "--json", record)
    output = capsys.readouterr().out
    assert all(f"| {name}" in output for name in NAMES)
    # about what files of ImageNet have
    assert 90 < int(output.split("made, ")[1].split(" kB")[0]) < 130
    rows = {row["loader"]: row for row in json.loads(record.read_text())["rows"]}
    assert list(rows) == NAMES
    assert rows["torchvision, Pillow"]["ratio to torchvision, Pillow"] == 1
    assert all(row["images/s per worker"] > 0 for row in rows.values())


def test_fewer_images_than_a_batch_are_refused(run_script: Callable[..., None], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_script("loader.py", "--images", "8")
    assert "expected at least --batch-size=64" in capsys.readouterr().err
