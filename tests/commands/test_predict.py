import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

import mhc_vision.commands.predict as command
from mhc_vision.cli import main

QUICK = ("--num-workers", "0", "--device", "cpu")
NAMES = ["ant", "bee", "cat, or dog", "doe", "elk", "fox", "gnu"]
# six digits are kept of probabilities that fp32 has to seven
ROUNDING = {"rel": 1e-5}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty files, three of which are no images, each in its own way, and what nobody wants to see."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(47):
        path = folder / ("summer" if number % 2 else "winter") / f"{number:02}.{('jpg', 'png', 'bmp')[number % 3]}"
        path.parent.mkdir(exist_ok=True)
        shape = (16 + number % 5, 24, 3)
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(path)
    (folder / "summer" / "truncated.jpg").write_bytes((folder / "winter" / "00.jpg").read_bytes()[:300])
    (folder / "winter" / "text.jpg").write_text("no image")
    (folder / "README.txt").write_text("my photos")
    (folder / ".DS_Store").write_text("hidden")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "00.jpg").write_bytes((folder / "winter" / "00.jpg").read_bytes())
    return folder


@pytest.fixture(scope="module")
def model(timm_directory: Callable[..., Path]) -> Path:
    """Of seven classes that it knows by name; one of the names has a comma."""
    directory = timm_directory(len(NAMES))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "label_names": NAMES}))
    return directory


@pytest.fixture
def refused(refused_by: Callable[..., str]) -> Callable[..., str]:
    return partial(refused_by, "predict")


def by_hand(directory: Path, paths: Sequence[Path]) -> torch.Tensor:
    """Logits of image files by timm's model of a directory."""
    network = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(network)
    side = int(16 / config["crop_pct"])
    images = [
        center_crop(resize(pil_to_tensor(Image.open(path).convert("RGB")), [side], antialias=True, interpolation=3), 16)
        for path in paths
    ]
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return network((torch.stack(images) / 255 - mean) / std)


def test_three_broken_files_among_fifty_are_named_and_left_out(model, photos, capsys):
    main(["predict", str(model), str(photos), "--batch-size", "8", *QUICK])
    shown = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    broken = [photos / "README.txt", photos / "summer" / "truncated.jpg", photos / "winter" / "text.jpg"]
    images = sorted(path for path in photos.glob("*/*") if path not in broken and ".thumbnails" not in path.parts)
    assert [row["image"] for row in rows] == [str(path) for path in images]
    assert len(rows) == 47
    probabilities, order = by_hand(model, images).softmax(1).sort(1, descending=True)
    for row, values, classes in zip(rows, probabilities.tolist(), order.tolist(), strict=True):
        assert len(row) == 11
        assert [row[f"class_{rank}"] for rank in range(1, 6)] == [NAMES[index] for index in classes[:5]]
        found = [float(row[f"probability_{rank}"]) for rank in range(1, 6)]
        assert found == pytest.approx(values[:5], **ROUNDING)
    said = shown.err.splitlines()
    assert said[-5:-3] == ["mhc-vision: 47 of 50 files read", "mhc-vision: 3 left out:"]
    for line, path, reason in zip(
        said[-3:], broken, ("expected an image", "truncated", "expected an image"), strict=True
    ):
        assert line.startswith(f"cannot decode {path}: ")
        assert reason in line


def test_json_has_the_same_with_indices_and_settings(model, photos, tmp_path, capsys):
    words = ["predict", str(model), str(photos), "--top-k", "9", *QUICK]
    main([*words, "--format", "json", "--out", str(tmp_path / "new" / "predictions.json")])
    assert capsys.readouterr().out == f"predictions: {tmp_path / 'new' / 'predictions.json'}\n"
    record = json.loads((tmp_path / "new" / "predictions.json").read_text())
    assert (record["num_files"], len(record["images"]), len(record["unreadable"])) == (50, 47, 3)
    assert (record["probabilities"], record["num_classes"]) == ("softmax", 7)
    assert record["settings"]["img_size"] == 16
    assert record["command"][:3] == ["mhc-vision", *words[:2]]
    logits = by_hand(model, [Path(image["image"]) for image in record["images"]])
    for image, values in zip(record["images"], logits.softmax(1).tolist(), strict=True):
        # nine are asked for, there are seven
        assert len(image["predictions"]) == 7
        for entry in image["predictions"]:
            assert entry["class"] == NAMES[entry["index"]]
            assert entry["probability"] == pytest.approx(values[entry["index"]], **ROUNDING)
        assert sum(entry["probability"] for entry in image["predictions"]) == pytest.approx(1, abs=1e-5)
    main([*words, "--out", str(tmp_path / "predictions.csv")])
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(newline="")))
    assert [row["class_7"] for row in rows] == [image["predictions"][6]["class"] for image in record["images"]]


def test_single_files_and_folders_come_in_the_order_given(timm_directory, photos, capsys):
    one, other = photos / "winter" / "02.bmp", photos / "summer" / "01.png"
    main(["predict", str(timm_directory(3)), str(one), str(other), *QUICK, "--batch-size", "1", "--top-k", "1"])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["image", "class_1", "probability_1"]
    assert [row[0] for row in rows[1:]] == [str(one), str(other)]
    # a model that names no classes
    assert {row[1] for row in rows[1:]} <= {"0", "1", "2"}


def test_file_names_that_are_no_text_do_not_stop_it(model, photos, tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/caf\xe9.bmp"
    Path(os.fsdecode(name)).write_bytes((photos / "winter" / "02.bmp").read_bytes())
    for form in ("csv", "json"):
        main(["predict", str(model), str(tmp_path), "--format", form, "--out", str(tmp_path / f".{form}"), *QUICK])
    assert "caf\\udce9.bmp," in (tmp_path / ".csv").read_text()
    assert json.loads((tmp_path / ".json").read_text())["images"][0]["image"] == os.fsdecode(name)


@pytest.fixture(scope="module")
def sigmoid_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run with a sigmoid for each class."""
    run_dir = tmp_path_factory.mktemp("sigmoid") / "run"
    main(
        [
            *("--model.name", "test_vit", "--model.model_args", '{"depth": 1, "patch_size": 8}', "--model.loss", "bce"),
            *("--data", "FakeDataModule", "--data.num_classes", "6", "--data.img_size", "16", "--data.batch_size", "4"),
            *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"),
            *("--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *("--trainer.default_root_dir", str(run_dir)),
        ]
    )
    return run_dir / "checkpoints" / "last.ckpt"


def test_a_model_of_sigmoids_gives_these_from_its_checkpoint_and_from_its_export(sigmoid_run, photos, tmp_path, capsys):
    main(["export", str(sigmoid_run), str(tmp_path / "exported")])
    records = []
    for name in (sigmoid_run, tmp_path / "exported"):
        main(["predict", str(name), str(photos / "winter" / "02.bmp"), "--format", "json", "--top-k", "6", *QUICK])
        shown = capsys.readouterr()
        assert "sigmoid for each class: probabilities do not sum to 1" in shown.err
        records.append(json.loads(shown.out[shown.out.index("{") :]))
    assert records[0]["images"] == records[1]["images"]
    assert records[0]["probabilities"] == records[1]["probabilities"] == "sigmoid"
    expected = by_hand(tmp_path / "exported", [photos / "winter" / "02.bmp"]).sigmoid()[0].sort(descending=True)
    found = [entry["probability"] for entry in records[0]["images"][0]["predictions"]]
    assert found == pytest.approx(expected.values.tolist(), **ROUNDING)


def test_nothing_is_overwritten_unless_asked(model, photos, refused, tmp_path, monkeypatch):
    out = tmp_path / "predictions.csv"
    out.write_text("precious")
    with monkeypatch.context() as patch:
        # refused before any work
        patch.setattr("mhc_vision.inference.predict.predict_files", None)
        assert "is there already, expected a new file, or --force" in refused(model, photos, "--out", out)
    assert out.read_text() == "precious"
    main(["predict", str(model), str(photos), "--out", str(out), "--force", *QUICK])
    assert out.read_text().startswith("image,class_1,probability_1,")
    assert list(tmp_path.iterdir()) == [out]


def test_nothing_is_written_when_nothing_can_be_read(model, refused, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in (("a.txt", b"text"), ("b.jpg", b""), ("c.png", b"\x89PNG\r\n\x1a\n")):
        (folder / name).write_bytes(content)
    there, new = tmp_path / "there.csv", tmp_path / "new.csv"
    there.write_text("precious")
    for words in ((), ("--out", new), ("--out", there, "--force")):
        message = refused(model, folder, *words)
        assert "none of the 3 files can be read" in message
        for name in ("a.txt", "b.jpg", "c.png"):
            assert f"cannot decode {folder / name}" in message
    assert there.read_text() == "precious"
    assert not new.exists()


def test_bad_input_is_named_before_a_file_is_read(model, photos, timm_directory, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.inference.predict.decode_file", None)
    (tmp_path / "empty").mkdir()
    for words, expected in (
        (
            ["vit_bse_patch16_224", photos],
            "expected a checkpoint, a directory or a timm model; nearest: vit_base_",
        ),
        (["test_vit_mch", photos], "nearest: test_vit"),
        ([model, photos, tmp_path / "missing.jpg"], "missing.jpg, which is not there, expected files or folders"),
        ([model, tmp_path / "empty"], "no files"),
        ([model, photos, "--top-k", "0"], "top_k: got 0, expected a whole number from 1"),
        ([model, photos, "--batch-size", "0"], "batch_size: got 0, expected a whole number from 1"),
        ([model, photos, "--device", "nonsense"], "device: got 'nonsense'"),
        ([model, photos, "--img-size", "17"], "expected a multiple of its patches' 8 pixels"),
        ([model, photos, "--crop-pct", "2"], "crop_pct: got 2.0, expected a finite number"),
        ([model, photos, "--connection", "mhc"], "with a plain timm name only"),
        ([model, photos, "--weights", "raw"], "expected 'default' for all but training checkpoints"),
        ([timm_directory(3, in_chans=1), photos], "for images of 1 channel(s), expected 3"),
        ([model, photos, "--out", photos], "a directory, expected a file"),
        ([model, photos, "--out", photos / "README.txt" / "x.csv"], "README.txt is no directory"),
        ([model, photos, "--force"], "force: got it without --out"),
    ):
        assert expected in refused(*words)


def test_options_of_the_model_are_heeded(model, photos, capsys):
    found = []
    for options in ((), ("--crop-pct", "0.5"), ("--img-size", "32"), ("--precision", "bf16")):
        main(["predict", str(model), str(photos / "winter" / "02.bmp"), *options, *QUICK])
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 4


def test_a_reader_that_has_enough_is_no_error(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        command._print("image\n" * 20000)


def test_an_interrupt_leaves_no_file(monkeypatch, capsys, tmp_path):
    def interrupted(*words: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mhc_vision.inference.predict.predict_files", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "test_vit", str(tmp_path), "--out", str(tmp_path / "predictions.csv")])
    assert stopped.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
