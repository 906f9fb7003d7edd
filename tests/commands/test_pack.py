import errno
import json
from pathlib import Path

import pytest
import torch
from torchvision.io import write_jpeg

from mhc_vision.cli import main
from mhc_vision.data import PackedDataModule

pytest.importorskip("litdata")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(2):
                write_jpeg(
                    torch.full((3, 20, 30), 60 * index, dtype=torch.uint8),
                    str(tmp_path / "images" / split / name / f"{index}.jpg"),
                )
    return tmp_path / "images"


def left_behind(source: Path) -> list[str]:
    return sorted(path.name for path in source.parent.iterdir() if path != source)


def test_packs_and_says_what(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["pack", str(source), str(tmp_path / "packed"), "--check"])
    output = capsys.readouterr()
    assert "(4 images in train, 4 images in val, 2 classes)" in output.out
    assert "pack train" in output.err
    description = json.loads((tmp_path / "packed" / "packed.json").read_text())
    size = sum(path.stat().st_size for path in (source / "train").rglob("*.jpg"))
    assert description["class_names"] == ["cat", "dog"]
    assert (description["num_images"]["train"], description["num_bytes"]["train"]) == (4, size)
    assert len(PackedDataModule(str(tmp_path / "packed")).train_set) == 4
    assert left_behind(source) == ["packed"]


def test_an_existing_destination_is_left_alone(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "packed").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["pack", str(source), str(tmp_path / "packed")])
    assert "packed exists already" in capsys.readouterr().err
    assert not list((tmp_path / "packed").iterdir())


def test_a_destination_that_cannot_be_made_is_named(source: Path, capsys: pytest.CaptureFixture) -> None:
    # a file where a folder should be
    destination = source / "train" / "cat" / "0.jpg" / "packed"
    with pytest.raises(SystemExit, match="2"):
        main(["pack", str(source), str(destination)])
    assert f"{destination} cannot be made: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "packed cannot be written: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["full disk", "interrupt"],
)
def test_a_packing_that_stops_says_so_and_leaves_nothing(
    source: Path,
    tmp_path: Path,
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("litdata.streaming.Cache.merge", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["pack", str(source), str(tmp_path / "packed")])
    assert stopped.value.code == status
    assert message in capsys.readouterr().err
    assert left_behind(source) == []


@pytest.mark.parametrize(("kept", "options"), [(0, []), (100, ["--check"])], ids=["empty", "truncated"])
def test_a_broken_file_is_named_and_nothing_left_behind(
    source: Path, tmp_path: Path, kept: int, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    broken = source / "val" / "dog" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:kept])
    with pytest.raises(SystemExit, match="2"):
        main(["pack", str(source), str(tmp_path / "packed"), *options])
    assert str(broken) in capsys.readouterr().err
    assert left_behind(source) == []
