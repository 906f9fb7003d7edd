"""What is done with a segmentation model: masks, ONNX, and what refuses it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mhc_vision.cli import main
from mhc_vision.data.segmentation.masks import class_values
from mhc_vision.inference.load_model import load_model
from mhc_vision.models.segmenter import DECODERS
from mhc_vision.segmentation_scores import segmentation_scores

CONFIGS = Path(__file__).parents[3] / "configs"
QUIET = ("--trainer.enable_progress_bar", "false")


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_predicted_masks_score_as_validation_did(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(trained / "checkpoints" / "last.ckpt")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [str(photos / "val" / "images"), str(tmp_path / "broken.png")]
    main(["predict", last, *images, "--masks", str(tmp_path / "masks"), "--overlays", "--exif-orientation", "off"])
    said = capsys.readouterr()
    assert "4 of 5 files read" in said.err
    assert "broken.png" in said.err
    assert said.out.splitlines()[0] == "image,mask"
    scores = segmentation_scores(2)
    values = class_values(("ground", "sky"))
    for number in range(4):
        with Image.open(tmp_path / "masks" / f"{number}.png") as mask:
            assert mask.mode == "P"
            predicted = torch.from_numpy(np.array(mask).astype(np.int64))
        with Image.open(tmp_path / "masks" / f"{number}_overlay.jpg") as overlay:
            assert overlay.size == predicted.shape[::-1]
        truth = values.decode(str(photos / "val" / "masks" / f"{number}.png"))
        scores.update(torch.nn.functional.one_hot(predicted, 2).movedim(-1, 0)[None].float(), truth[None])
    assert scores.compute()["mean_iou"].item() == pytest.approx(summary_of(trained)["metrics"]["val/mean_iou"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "masks: got None"),
        (("--masks", "."), "which is there already"),
        (("--masks", "new", "--img-size", "64"), "img_size: got 64"),
    ],
)
def test_masks_go_to_a_new_directory(
    more: tuple[str, ...], message: str, trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(trained / "checkpoints" / "last.ckpt"), str(photos / "val" / "images"), *more])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_classifiers_write_no_masks(start: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", str(start), str(photos / "val" / "images"), "--masks", "new"])
    assert "expected none for a model that classifies images" in capsys.readouterr().err


def test_names_and_shapes_of_images_may_be_anything(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, size in {b"two\nlines.png": (40, 30), b"no \xff text.png": (30, 40), b"dot.png": (1, 1)}.items():
        Image.new("RGB", size).save(os.fsencode(images) + b"/" + name)
    Image.new("RGB", (3300, 100)).save(images / "long.png")
    Image.new("RGB", (9, 9)).save(images / "._dot.png")
    last = str(trained / "checkpoints" / "last.ckpt")
    # a folder of images may have that of its masks in it
    main(["predict", last, str(images), "--masks", str(images / "masks"), "--overlays", "--format", "json"])
    said = capsys.readouterr()
    assert "long.png has 100 x 3300 pixels, expected a longer side of at most 32 times the shorter one" in said.err
    assert len(json.loads(said.out)["images"]) == 3
    for name, size in {b"two\nlines.png": (40, 30), b"no \xff text.png": (30, 40), b"dot.png": (1, 1)}.items():
        with Image.open(os.fsencode(images / "masks") + b"/" + name) as mask:
            assert mask.size == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": None}, "hyper_parameters.decoder: got None"),
        ({"decoder": "unet"}, "hyper_parameters.decoder: got 'unet'"),
        ({"decoder": "upernet"}, "state_dict"),
        ({"decoder_channels": ...}, "hyper_parameters.decoder_channels: missing"),
        ({"window_stride": ...}, "hyper_parameters.window_stride: missing"),
        ({"decoder_channels": 10**30}, "no model can be built of hyper_parameters"),
        ({"decoder_channels": 9}, "state_dict"),
        ({"window_stride": 33}, "window_stride: got 33"),
        ({"num_classes": 1000}, "num_classes: got 1000"),
        ({"model_args": {"patch_size": 8, "depth": 3}}, "got a model of 3 blocks"),
        ({"crop_pct": 1e-300}, "shorter side of a resized image: got"),
        ({"crop_pct": 100.0}, "shorter side of a resized image: got"),
    ],
    ids=str,
)
def test_a_checkpoint_that_makes_no_sense_gets_one_line(
    changes: dict[str, Any],
    message: str,
    trained: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    data = content["SegmentationDataModule"]
    for key, value in changes.items():
        record = data if key in data else content["hyper_parameters"]
        record[key] = value
        if value is ...:
            del record[key]
    if "num_classes" in changes:
        data["class_names"] = [str(number) for number in range(changes["num_classes"])]
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(SystemExit) as stopped:
        main(
            ["predict", str(tmp_path / "changed.ckpt"), str(photos / "val" / "images"), "--masks", str(tmp_path / "m")]
        )
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert "changed.ckpt" in lines[-1]
    assert not (tmp_path / "m").exists()


def test_images_of_one_name_are_refused(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["predict", str(trained / "checkpoints" / "last.ckpt"), str(photos), "--masks", str(tmp_path / "masks")])
    assert "several files of the names 0" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("decoder", DECODERS)
def test_onnx_gives_the_logits_of_pytorch(
    decoder: str, trained: Path, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    main(["finetune", *words("--config", "connections/mhc", "--model.decoder", decoder, "--trainer.max_epochs", "1")])
    checkpoint = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    main(["export", checkpoint, str(tmp_path / "exported"), "--format", "onnx"])
    record = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert record["output"]["shape"] == ["batch", 2, 32, 32]
    assert record["class_names"] == ["ground", "sky"]
    assert (record["task"], record["decoder"]) == ("semantic segmentation", decoder)
    assert record["check"]["relative_difference"] < 1e-4
    images = torch.randn(2, 3, 32, 32)
    session = onnxruntime.InferenceSession(tmp_path / "exported" / "model.onnx")
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    with torch.inference_mode():
        expected = load_model(checkpoint, segmentation=True).model(images)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def test_what_is_for_classifiers_says_so(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(trained / "checkpoints" / "last.ckpt")
    for name in ("ground", "sky"):
        (tmp_path / "classes").mkdir(exist_ok=True)
        shutil.copytree(photos / "val" / "images", tmp_path / "classes" / name)
    for line_ in (
        ["evaluate", last, str(tmp_path / "classes")],
        ["export", last, str(tmp_path / "timm")],
        ["analyze", last, "--out", str(tmp_path / "analysis")],
        ["embed", last, str(photos), "--out", str(tmp_path / "features.npz")],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(line_)
        assert stopped.value.code == 2
        assert "pixels" in capsys.readouterr().err
    with pytest.raises(ValueError, match="gives classes to pixels, expected a classifier"):
        load_model(last)
