import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mhc_vision.cli import main
from mhc_vision.predictions import Predictions

CLASSES = ("blue", "green", "red")
QUICK = ("--num-workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    """A short training, with EMA, on three colours; its images are beside it."""
    root = tmp_path_factory.mktemp("run")
    write_images(root / "images" / "train", CLASSES, count=4)
    val = write_images(root / "images" / "val", CLASSES, count=5, seed=1)
    # two wrong labels: a model that is always right would hide mistakes
    swapped = [val / name / "4.png" for name in ("blue", "red")]
    first, second = [path.read_bytes() for path in swapped]
    swapped[0].write_bytes(second)
    swapped[1].write_bytes(first)
    main(
        [
            # a low learning rate: a model that is right always would hide mistakes
            *(
                "--model.lr",
                "1e-4",
                "--model.name",
                "test_vit",
                "--model.connection",
                "mhc",
                "--model.num_streams",
                "2",
            ),
            *("--model.model_args", '{"depth": 1, "patch_size": 8}', "--data", "ImageFolderDataModule"),
            *("--data.root", str(root / "images"), "--data.img_size", "16", "--data.batch_size", "4"),
            *("--data.num_workers", "0", "--data.crop_pct", "0.8", "--data.interpolation", "bilinear"),
            *("--data.mean", "[0.4, 0.5, 0.6]", "--data.std", "[0.2, 0.3, 0.4]"),
            *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *("--trainer.callbacks+=EMA", "--trainer.callbacks.decay", "0.5"),
            *("--trainer.default_root_dir", str(root / "run")),
        ]
    )
    return root / "run"


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the command and returns the figures that it wrote."""

    def run(*words: object) -> dict[str, Any]:
        file = tmp_path / "result" / "figures.json"
        main(["evaluate", *map(str, words), *QUICK, "--json", str(file)])
        return json.loads(file.read_text())

    return run


@pytest.fixture
def refused(refused_by: Callable[..., str]) -> Callable[..., str]:
    return partial(refused_by, "evaluate")


def test_a_checkpoint_gets_the_figures_of_its_run(run_dir, evaluate, capsys):
    checkpoint, images = run_dir / "checkpoints" / "last.ckpt", run_dir.parent / "images"
    found = evaluate(checkpoint, images, "--batch-size", "7")
    of_run = json.loads((run_dir / "summary.json").read_text())["metrics"]
    assert 0.2 < of_run["val/top1"] < 1
    assert found["metrics"]["top1"] == pytest.approx(of_run["val/top1"], abs=1e-7)
    # batches of 7 in place of 4 are summed in another order
    assert found["metrics"]["loss"] == pytest.approx(of_run["val/loss"], rel=1e-4)
    assert (found["num_images"], found["folder"]) == (15, str(images / "val"))
    # three classes: any guess is among the first five
    assert set(found["metrics"]) == {"top1", "loss"}
    assert found["settings"]["crop_pct"] == 0.8
    assert found["settings"]["mean"] == pytest.approx([0.4, 0.5, 0.6])
    assert (found["architecture"], found["connection"], found["num_streams"]) == ("test_vit", "mhc", 2)
    assert len(found["weights_sha256"]) == 64
    assert found["command"][:3] == ["mhc-vision", "evaluate", str(checkpoint)]
    printed = capsys.readouterr().out
    assert re.search(rf"top1 \(%\) +\| +{100 * of_run['val/top1']:.2f} ", printed)
    assert f"images: {images / 'val'}" in printed


def test_an_exported_directory_gets_the_figures_of_its_checkpoint(run_dir, evaluate, tmp_path):
    checkpoint, images = run_dir / "checkpoints" / "last.ckpt", run_dir.parent / "images" / "val"
    figures = {}
    for weights in ("default", "raw"):
        main(["export", str(checkpoint), str(tmp_path / weights), "--weights", weights])
        of_checkpoint = evaluate(checkpoint, images, "--weights", weights)
        for name in (tmp_path / weights, f"local-dir:{tmp_path / weights}"):
            of_directory = evaluate(name, images)
            assert of_directory["metrics"] == of_checkpoint["metrics"]
            assert of_directory["settings"] == of_checkpoint["settings"]
            assert of_directory["labels"] == "names of the model's classes"
        figures[weights] = of_checkpoint["metrics"]["loss"]
    assert figures["default"] != figures["raw"]


def test_some_of_the_classes_are_enough(run_dir, evaluate, tmp_path):
    """Labels are indices of the model, not places in the folder."""
    checkpoint, images = run_dir / "checkpoints" / "last.ckpt", run_dir.parent / "images" / "val"
    losses = []
    for name in CLASSES:
        shutil.copytree(images / name, tmp_path / name / name)
        found = evaluate(checkpoint, tmp_path / name)
        assert found["num_images"] == 5
        losses.append(found["metrics"]["loss"])
    assert sum(losses) / 3 == pytest.approx(evaluate(checkpoint, images)["metrics"]["loss"], rel=1e-4)


@pytest.mark.parametrize("options", [(), ("--img-size", "32"), ("--crop-pct", "0.5"), ("--precision", "bf16")])
def test_options_change_what_they_say(options, run_dir, evaluate):
    images = run_dir.parent / "images"
    found = evaluate(run_dir / "checkpoints" / "best.ckpt", images, *options)
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert str(found["settings"][name.removeprefix("--").replace("-", "_")]) == value
    assert 0 <= found["metrics"]["top1"] <= 1
    assert (found["metrics"]["loss"] == evaluate(run_dir / "checkpoints" / "best.ckpt", images)["metrics"]["loss"]) == (
        not options
    )


def test_folder_names_that_are_numbers_are_class_numbers(timm_directory, write_images, evaluate, tmp_path):
    """In the order of their names, 10 would come before 2."""
    model = timm_directory(11, favourite=10)
    images = write_images(tmp_path / "images", ("0", "1", "2", "10"))
    found = evaluate(model, images)
    assert found["metrics"]["top1"] == pytest.approx(1 / 4)
    shutil.rmtree(images / "10")
    assert evaluate(model, images)["metrics"]["top1"] == 0
    assert found["labels"] == "folder names as class numbers"


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    """Twelve images named as ImageNet's, in folders of two WordNet ids."""
    folder = write_images(tmp_path_factory.mktemp("validation") / "val", ("n01440764", "n02123045"), count=6)
    for number, path in enumerate(sorted(folder.glob("*/*.png"))):
        path.rename(path.parent / f"ILSVRC2012_val_{number + 1:08d}.JPEG")
    return folder


def test_wordnet_ids_are_those_of_imagenet(timm_directory, validation, evaluate):
    # the tabby cat, the second of the folders, is ImageNet's class 281
    found = evaluate(timm_directory(1000, favourite=281), validation)
    assert found["labels"] == "WordNet ids of imagenet-1k"
    assert found["metrics"]["top1"] == pytest.approx(0.5)


def test_real_labels_count_any_of_the_labels_and_skip_images_without(timm_directory, validation, evaluate, tmp_path):
    model = timm_directory(1000, favourite=281)
    labels = [[281, 3], [281], [], [5], *[[281]] * 4, [], [], [1, 2], [0]]
    file = tmp_path / "real.json"
    file.write_text(json.dumps(labels))
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in validation.glob("*/*"):
        shutil.copy(path, flat)
    for folder in (validation, flat):
        found = evaluate(model, folder, "--real-labels", file)
        assert (found["num_images"], found["num_real_images"]) == (12, 9)
        assert found["metrics"]["real_top1"] == pytest.approx(6 / 9)
        assert ("top1" in found["metrics"]) == (folder == validation)
    with_shipped = evaluate(model, flat, "--real-labels", "timm")
    # of timm's labels for images 1 to 12, three are empty
    assert 0 < with_shipped["num_real_images"] < 12


def test_broken_images_do_not_count(timm_directory, write_images, evaluate, refused, tmp_path, capsys):
    model = timm_directory(6)
    images = write_images(tmp_path / "images", tuple("012345"))
    whole = evaluate(model, images)
    for folder, name in (("0", "a.png"), ("3", "9.jpg"), ("5", "z.png")):
        (images / folder / name).write_bytes(b"no image")
    message = refused(model, images)
    assert f"cannot decode {images / '0' / 'a.png'}" in message
    assert "Traceback" not in message
    with pytest.raises(SystemExit):
        main(["evaluate", str(model), str(images), "--num-workers", "1", "--device", "cpu"])
    # the bare message, not the text of a traceback out of a data worker
    assert capsys.readouterr().err.splitlines()[-1].startswith("mhc-vision: error: cannot decode")
    # batches of one: some have nothing to read
    found = evaluate(model, images, "--broken", "skip", "--batch-size", "1")
    assert found["num_images"] == whole["num_images"] == 18
    assert found["metrics"] == pytest.approx(whole["metrics"], rel=1e-4)
    assert len(found["broken"]) == 3
    printed = capsys.readouterr().out
    for folder, name in (("0", "a.png"), ("3", "9.jpg"), ("5", "z.png")):
        assert f"cannot decode {images / folder / name}" in printed
    for path in images.rglob("*.*"):
        path.write_bytes(b"")
    assert "got 21 broken images, expected one that can be read" in refused(model, images, "--broken", "skip")


def test_a_registered_name_is_loaded_with_its_weights(monkeypatch, timm_directory, write_images, evaluate, tmp_path):
    """Plain and hyper-connected: the weights come from where timm's configuration of the tag says."""
    model = timm_directory(6)
    images = write_images(tmp_path / "images", tuple("012345"))
    create_model = timm.create_model
    asked = []

    def local_weights(name: str, **options: Any) -> torch.nn.Module:
        if not options["pretrained"]:
            # to see of what size it would be
            return create_model(name, **options)
        asked.append((name, options.pop("pretrained")))
        if ":" in name:
            return create_model(name, pretrained=True, **options)
        overlay = {"file": str(model / "model.safetensors"), "hf_hub_id": None, "num_classes": 6}
        sizes = {"img_size": 16, "patch_size": 8, "depth": 1}
        overlay["input_size"] = (3, 16, 16)
        return create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **sizes, **options)

    monkeypatch.setattr(timm, "create_model", local_weights)
    of_directory = evaluate(model, images)["metrics"]
    for words in (("test_vit.r160_in1k",), ("test_vit_mhc.r160_in1k",), ("test_vit.r160_in1k", "--connection", "mhc")):
        # mHC starts as the same function
        assert evaluate(words[0], images, *words[1:])["metrics"] == pytest.approx(of_directory, abs=1e-4)
    assert asked[1:] == [("test_vit.r160_in1k", True), *[("test_vit_mhc.r160_in1k", True)] * 2]


def test_a_download_that_fails_is_a_message(monkeypatch, write_images, refused, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    images = write_images(tmp_path / "images", ("0",))
    for name in ("test_vit_mhc.r160_in1k", "hf-hub:timm/test_vit.r160_in1k"):
        message = refused(name, images)
        assert f"model: {name} cannot be loaded" in message
        assert "Traceback" not in message


def test_models_that_cannot_be_had_are_named(run_dir, timm_directory, write_images, refused, tmp_path):
    images = write_images(tmp_path / "images", ("0", "1"))
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((run_dir / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    cut = timm_directory(3)
    (cut / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    grey = timm_directory(3, in_chans=1)
    for words, expected in (
        (["test_vit_mch"], "expected a checkpoint, a directory or a timm model; nearest: test_vit"),
        (["test_vit.nonsense"], "test_vit.nonsense cannot be loaded"),
        (["no/where/last.ckpt"], "which is not there"),
        ([damaged], "it is cut short"),
        ([cut], f"model: local-dir:{cut} cannot be loaded"),
        ([tmp_path / "empty"], "without config.json"),
        ([timm_directory(0)], "expected a model with classes"),
        ([grey], "for images of 1 channel(s), expected 3"),
        ([cut, "--weights", "raw"], "expected 'default' for all but training checkpoints"),
        ([cut, "--connection", "mhc"], "with a plain timm name only"),
        (["test_vit_mhc", "--connection", "mhc"], "expected the plain model"),
        (["test_resnet", "--connection", "mhc"], "expected a model with the connection 'mhc'"),
    ):
        assert expected in refused(words[0], images, *words[1:])


def test_a_model_of_grey_images_is_refused(write_images, refused, tmp_path):
    config = Path(__file__).parents[2] / "configs" / "digits.yaml"
    main(
        [
            *("--config", str(config), "--model.model_args.depth", "1", "--trainer.max_epochs", "1"),
            *("--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--trainer.logger", "false"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
            *("--trainer.default_root_dir", str(tmp_path / "run")),
        ]
    )
    images = write_images(tmp_path / "images", ("0", "1"))
    message = refused(tmp_path / "run" / "checkpoints" / "best.ckpt", images)
    assert "for images of 1 channel(s), expected 3: files are read as RGB" in message


def test_bad_input_is_named_before_an_image_is_read(timm_directory, write_images, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.inference.evaluation_images.decode_rgb", None)
    model = timm_directory(3)
    images = write_images(tmp_path / "images", ("0", "1"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "only" / "train").mkdir(parents=True)
    other = write_images(tmp_path / "other", ("cat", "dog"))
    large = write_images(tmp_path / "large", ("1", "3"))
    for words, expected in (
        ([tmp_path / "nowhere"], "which is not there"),
        ([tmp_path / "empty"], "without class folders"),
        ([tmp_path / "only"], "with train/ only, expected val/ or test/"),
        ([other], "class folders cat, dog do not tell which of the model's 3 classes they are"),
        ([large], "class numbers 3 are too large for a model of 3 classes"),
        ([images, "--img-size", "17"], "expected a multiple of its patches' 8 pixels"),
        ([images, "--img-size", "0"], "img_size: got 0, expected a whole number from 1"),
        ([images, "--crop-pct", "1.5"], "crop_pct: got 1.5, expected a finite number"),
        ([images, "--batch-size", "0"], "batch_size: got 0"),
        ([images, "--num-workers", "-1"], "num_workers: got -1, expected a whole number from 0"),
        ([images, "--real-labels", "timm"], "with 3 classes, expected ImageNet's 1000"),
        ([images, "--json", images], "a directory, expected a file"),
        ([images, "--json", images / "0" / "0.png" / "x.json"], "0.png is no directory"),
    ):
        if "--num-workers" in words:
            with pytest.raises(SystemExit):
                main(["evaluate", str(model), *map(str, words)])
            continue
        assert expected in refused(model, *words)
    for device in ("nonsense", "cuda:99", "meta"):
        with pytest.raises(SystemExit):
            main(["evaluate", str(model), str(images), "--device", device])


def test_an_interrupt_leaves_no_file(monkeypatch, capsys, tmp_path):
    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mhc_vision.inference.evaluate_folder.evaluate_folder", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "test_vit", str(tmp_path), "--json", str(tmp_path / "figures.json")])
    assert stopped.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_report_shows_classes_confusions_and_the_files_of_mistakes(run_dir, evaluate, tmp_path, capsys):
    report = tmp_path / "report"
    images = run_dir.parent / "images"
    found = evaluate(run_dir / "checkpoints" / "last.ckpt", images, "--report", report)
    assert f"report: {report / 'report.md'}" in capsys.readouterr().out
    predictions = Predictions.load(report / "predictions.npz")
    assert predictions.class_names == CLASSES
    assert predictions.right().sum() / 15 == pytest.approx(found["metrics"]["top1"])
    text = (report / "report.md").read_text()
    assert f"Evaluated: {images / 'val'}, 15 images" in text
    # a file of each mistake, in the order of the sheet
    files = re.findall(r"\| (\S+\.png) +\| +(\w+) \| +(\w+) \|", text)
    assert [(true, said) for _, true, said in files] == [
        (CLASSES[label], CLASSES[said])
        for label, said in zip(predictions.mistakes.labels, predictions.mistakes.classes, strict=True)
    ]
    assert all(Path(file).parent.name == true for file, true, _ in files)
    assert len(predictions.images) == len(files) > 0
    assert "Most confident mistakes" in (report / "report.html").read_text()


def test_a_report_needs_a_directory_of_its_own_and_labels(run_dir, refused, tmp_path):
    checkpoint, images = run_dir / "checkpoints" / "last.ckpt", run_dir.parent / "images"
    (tmp_path / "notes.txt").write_text("mine")
    assert "report: " in refused(checkpoint, images, "--report", tmp_path)
