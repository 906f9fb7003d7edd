import resource

import pytest
import torch

from mhc_vision.atomic_files import replace_text
from mhc_vision.training.checkpoint import AtomicCheckpointIO


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 3, "weight": torch.arange(4)}, path)
    assert torch.load(path, weights_only=True)["weight"].tolist() == [0, 1, 2, 3]
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def half_a_file(checkpoint, file):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("mhc_vision.training.checkpoint.torch.save", half_a_file)
    with pytest.raises(OSError, match="no space left"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_takes_no_more_is_reported(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # files of a megabyte end like those on a full disk: with an error in the middle of the write
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match=r"last\.ckpt cannot be written, with \d+ MiB free; the earlier one is still"):
            AtomicCheckpointIO().save_checkpoint({"step": 2, "weight": torch.zeros(2**20)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_failed_text_leaves_the_previous_one(tmp_path):
    path = tmp_path / "config.yaml"
    replace_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "new \ud800")
    assert path.read_text() == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]
