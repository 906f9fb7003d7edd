import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from mhc_vision.cli import main
from mhc_vision.inference import export_onnx as module
from mhc_vision.inference.load_model import LoadedModel, load_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must refuse its input, and returns the message."""

    def run(*words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["export", *map(str, words)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model of one block as timm writes it."""
    model = timm.create_model("test_vit", num_classes=3, img_size=16, patch_size=8, depth=1)
    nn.init.normal_(model.head.weight)
    save_for_hf(model, str(tmp_path / "model"), model_config={"pretrained_cfg": {"input_size": [3, 16, 16]}})
    return tmp_path / "model"


# an export of a block takes seconds
@pytest.mark.parametrize(
    ("connection", "options"),
    [
        ("baseline", ()),
        ("shc", ("--model.loss", "bce")),
        ("dhc", ()),
        # every iteration is a part of the graph
        ("mhc", ("--model.model_args.sinkhorn_iters", "2")),
    ],
    ids=["baseline", "shc", "dhc", "mhc"],
)
def test_onnxruntime_gives_the_logits_of_a_checkpoint(train, tmp_path, capsys, connection, options):
    # a learning rate at which two steps move every map
    checkpoint = train("--model.lr", "0.01", *options, connection=connection) / "checkpoints" / "last.ckpt"
    main(["export", str(checkpoint), str(tmp_path / "onnx"), "--format", "onnx"])
    assert f"exported: {tmp_path / 'onnx'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["model.json", "model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    model = load_model(str(checkpoint), needs_rgb_classes=False).model
    for batch_size in (1, 3):
        images = torch.randn(batch_size, 1, 8, 8)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            # fp32 rounding of logits of order one, added up in another order
            torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=0, atol=1e-5)
    record = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert record["connection"] == (None if connection == "baseline" else connection)
    assert record["num_streams"] == (1 if connection == "baseline" else 4)
    assert record["architecture"]
    assert len(record["weights_sha256"]) == 64
    assert record["input"]["name"] == session.get_inputs()[0].name
    assert record["input"]["shape"] == session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    assert record["output"]["shape"] == session.get_outputs()[0].shape == ["batch", 10]
    assert record["class_names"] == [str(digit) for digit in range(10)]
    assert record["probabilities"] == ("sigmoid" if connection == "shc" else "softmax")
    data = ("mean", "std", "img_size", "crop_pct", "crop_mode", "interpolation")
    assert [record[name] for name in data] == [[0.5], [0.5], 8, 1.0, "center", "bicubic"]
    assert 0 <= record["check"]["relative_difference"] <= 1e-5
    imported = onnx.load(tmp_path / "onnx" / "model.onnx").opset_import
    assert {entry.domain: entry.version for entry in imported}[""] == record["opset"]


def test_another_image_size_is_exported(directory, tmp_path):
    main(["export", f"local-dir:{directory}", str(tmp_path / "onnx"), "--format", "onnx", "--img-size", "32"])
    record = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert record["input"]["shape"] == ["batch", 3, 32, 32]
    # that of the model on images of this size, whose position embeddings are resampled
    model = load_model(str(directory), img_size=32).model
    images = torch.randn(2, 3, 32, 32)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), expected)
    assert record["class_names"] is None


def test_a_file_that_gives_other_logits_is_not_kept(directory, refused, tmp_path, monkeypatch):
    write = module._write

    def write_another(loaded: LoadedModel, path: Path) -> None:
        bias: Any = loaded.model.get_submodule("head").bias
        bias.data += 0.1
        write(loaded, path)
        bias.data -= 0.1

    monkeypatch.setattr(module, "_write", write_another)
    message = refused(directory, tmp_path / "onnx", "--format", "onnx")
    assert f"the ONNX file of local-dir:{directory} than from PyTorch" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_model_that_cannot_be_traced_is_named(directory, refused, tmp_path, monkeypatch):
    def negative_ones_turned(layer: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        return logits if logits.sum() > 0 else -logits

    def load(*words: Any, **options: Any) -> LoadedModel:
        loaded = load_model(*words, **options)
        loaded.model.get_submodule("head").register_forward_hook(negative_ones_turned)
        return loaded

    monkeypatch.setattr(module, "load_model", load)
    message = refused(directory, tmp_path / "onnx", "--format", "onnx")
    last = message.splitlines()[-1]
    assert f"model: local-dir:{directory} cannot be exported to ONNX: " in last
    assert "data-dependent" in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_what_cannot_be_exported_is_named_before_any_work(directory, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_write", None)
    new = tmp_path / "onnx"
    for words, message in (
        ([directory, directory, "--format", "onnx"], "is there already, expected a new one"),
        (["test_vit_mch", new, "--format", "onnx"], "nearest: test_vit"),
        ([directory, new, "--format", "onnx", "--img-size", "17"], "expected a multiple of its patches' 8 pixels"),
        ([directory, new, "--format", "onnx", "--weights", "raw"], "expected 'default' for all but training"),
        ([directory, new, "--img-size", "32"], "img_size: got 32, expected none without --format onnx"),
        ([directory, new, "--connection", "mhc"], "connection: got 'mhc', expected none without --format onnx"),
        ([directory, new], "expected a checkpoint"),
    ):
        assert message in refused(*words)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = refused(directory, new, "--format", "onnx")
    assert "the ONNX export needs onnxscript: pip install 'mhc-vision[onnx]'" in message
    assert not new.exists()


def test_a_backbone_without_classes_is_refused(directory, refused, tmp_path):
    headless = timm.create_model(f"local-dir:{directory}", pretrained=True, num_classes=0)
    save_for_hf(headless, str(tmp_path / "headless"))
    message = refused(tmp_path / "headless", tmp_path / "onnx", "--format", "onnx")
    assert "the weights of a backbone, expected a model with classes" in message
    assert not (tmp_path / "onnx").exists()
