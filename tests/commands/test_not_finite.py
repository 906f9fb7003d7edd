"""Models that are not finite: no command gives a result of one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from mhc_vision.cli import main
from mhc_vision.training import ClassificationModule

QUICK = ("--num-workers", "0", "--device", "cpu")
WEIGHTS = "has NaN or infinity in the weight head.bias, expected finite weights"
LOGITS = "gives logits with NaN or infinity for 6 of 6 images, such as "


@pytest.fixture
def folder(write_images: Callable[..., Path], tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", ("0", "1"))


@pytest.fixture
def lost(tmp_path: Path) -> Path:
    """A checkpoint with NaN in its head."""
    settings = {"num_classes": 2, "img_size": 16, "model_args": {"patch_size": 8, "depth": 1}}
    module = ClassificationModule("test_vit", **settings)
    module.model.head.bias.data[1] = math.nan
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "lost.ckpt")
    return tmp_path / "lost.ckpt"


@pytest.fixture
def overflowing(timm_directory: Callable[..., Path]) -> Path:
    """Finite weights that give infinite logits."""
    directory = timm_directory(2)
    weights = load_file(directory / "model.safetensors")
    weights["head.weight"] = torch.full_like(weights["head.weight"], 3e38)
    weights["head.weight"][:, ::2] *= -1
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    return printed.err


def test_evaluate_and_predict_end_with_an_error(lost, overflowing, folder, capsys):
    for command in ("evaluate", "predict"):
        assert WEIGHTS in _refusal(capsys, command, lost, folder, *QUICK)
        assert LOGITS in _refusal(capsys, command, overflowing, folder, *QUICK)


def test_nothing_is_exported(lost, overflowing, tmp_path, capsys):
    out = tmp_path / "out"
    assert WEIGHTS in _refusal(capsys, "export", lost, out)
    assert WEIGHTS in _refusal(capsys, "export", lost, out, "--format", "onnx")
    error = _refusal(capsys, "export", overflowing, out, "--format", "onnx")
    assert "model: got NaN or infinity for 1 of 1 images of noise" in error
    assert not out.exists()
