"""Directories of shards: what is wrong with one is noticed before PyTorch unpickles it, and it becomes one file."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mhc_vision.atomic_files import replace_directory, restore_previous, temporary_directory
from mhc_vision.inference.load_model import load_model
from mhc_vision.stored.checkpoint_files import damage, load
from mhc_vision.training.consolidate import consolidate
from mhc_vision.training.resume import newest_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Code:
    """Runs what it says when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("this must not run",)


def save(path: Path, lr: Any = 0.1) -> Path:
    """As Lightning saves a module with one weight."""
    weight = torch.arange(6.0).view(3, 2)
    state = {"state": {"weight": {"exp_avg": weight + 1}}, "param_groups": [{"params": ["weight"], "lr": lr}]}
    dcp.save({"state_dict": {"model.weight": weight}, "optimizer_0": state}, checkpoint_id=path, no_dist=True)
    torch.save({"global_step": 7, "epoch": 1}, path / "meta.pt")
    return path


def test_what_is_in_one(tmp_path):
    path = save(tmp_path / "checkpoints" / "last.ckpt")
    assert damage(path) == ""
    content = load(path)
    assert content["global_step"] == 7
    assert content["optimizer_states"] == [{}]
    assert content["state_dict"]["model.weight"].is_meta
    assert content["state_dict"]["model.weight"].shape == (3, 2)
    assert newest_checkpoint(tmp_path) == path


def test_damage_is_noticed(tmp_path):
    path = save(tmp_path / "one")
    (part,) = path.glob("*.distcp")
    whole = part.read_bytes()
    part.write_bytes(whole[:-10])
    assert damage(path) == f"its part {part.name} is cut short"
    part.unlink()
    assert damage(path).startswith("its parts cannot be read: ")
    part.write_bytes(whole)
    (path / "meta.pt").unlink()
    assert damage(path) == "it is a directory without meta.pt"


def test_code_is_refused(tmp_path, capsys):
    path = save(tmp_path / "entry", lr=Code())
    assert damage(path).startswith("its entry optimizer_0.param_groups")
    path = save(tmp_path / "index")
    (path / ".metadata").write_bytes(pickle.dumps(Code()))
    assert damage(path) == "its parts cannot be read: builtins.print is no part of an index"
    assert "must not run" not in capsys.readouterr().out


def test_a_directory_takes_the_place_of_another(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_text("a file of an earlier run")
    for number in range(2):
        temporary = temporary_directory(path)
        (temporary / "part").write_text(str(number))
        replace_directory(temporary, path)
        assert (path / "part").read_text() == str(number)
        assert list(tmp_path.iterdir()) == [path]
    # killed between its two steps, and after them
    path.rename(tmp_path / ".last.ckpt.previous")
    restore_previous(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / ".last.ckpt.previous").mkdir()
    restore_previous(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_where_one_file_is_needed_the_command_is_named(tmp_path):
    path = save(tmp_path / "best.ckpt")
    with pytest.raises(
        ValueError, match=r"a directory of shards, expected one file; make it with `python -m mhc_vision"
    ):
        load_model(str(path))
    with pytest.raises(ValueError, match="expected a sharded checkpoint: there is no such directory"):
        consolidate(tmp_path / "other.ckpt", tmp_path / "file.ckpt")
    with pytest.raises(ValueError, match="which is there already, expected a new file"):
        consolidate(path, path)
