"""`mhc-vision finetune PHOTOS`: a folder in place of a configuration file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mhc_vision.cli import main
from mhc_vision.command_line.given_settings import Given
from mhc_vision.command_line.photos import find_photos
from mhc_vision.commands.finetune import full_words
from mhc_vision.data import ImageFolderDataModule
from mhc_vision.finetuning.photo_recipe import photo_recipe, start_images
from mhc_vision.inference.export_timm import export_checkpoint

CLASSES = ("blue", "green", "red")
QUIET = (
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.accelerator", "cpu", "--data.num_workers", "0"),
)


@pytest.fixture
def photos(tmp_path: Path, write_images: Callable[..., Path]) -> Path:
    """Ten images of each of three classes."""
    return write_images(tmp_path / "photos", CLASSES, count=10)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must refuse its input, and returns the message."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["finetune", *map(str, words)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


def settings(words: list[str]) -> dict[str, str]:
    """Options of a command line, of which later ones count."""
    return dict(zip(words[1::2], words[2::2], strict=True))


def held_out(root: Path) -> list[str]:
    data = ImageFolderDataModule(str(root), train_split=".", val_split=None, val_share=0.2)
    kept = {path for path, _ in data.train_set.samples}
    assert len(kept) == 24
    assert not kept & {path for path, _ in data.eval_set.samples}
    return sorted(str(Path(path).relative_to(root)) for path, _ in data.eval_set.samples)


def test_the_same_share_of_each_class_is_held_out_wherever_the_files_lie(photos, tmp_path, write_images):
    found = held_out(photos)
    assert [Path(path).parent.name for path in found] == [name for name in CLASSES for _ in range(2)]
    # the same names, written in another order to another place, with other content
    other = tmp_path / "elsewhere"
    for path in sorted(photos.rglob("*.png"), reverse=True):
        copy = other / path.relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    assert held_out(other) == found


def test_validation_images_are_not_augmented(photos):
    data = ImageFolderDataModule(str(photos), train_split=".", val_split=None, num_workers=0, img_size=16)
    assert data.train_set.transform is data.to_train
    assert data.eval_set.transform is data.to_eval
    assert len(data._unaugmented_train_set()) == len(data.train_set) == 27


def test_a_folder_alone_trains_and_leaves_what_a_configuration_file_leaves(
    photos, timm_directory, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["photos", "--model", str(timm_directory(7)), "--config", "connections/mhc", *QUIET]
    main(["finetune", *words, "--trainer.max_epochs", "10"])
    said = capsys.readouterr().out
    assert "recipe: 24 images of 3 classes to train on, 6 held out to validate on" in said
    assert "; 1 step of 16 images per epoch, learning rate 3.5e-05, 16 pixels, precision 32-true\n" in said
    run = tmp_path / "runs" / "photos"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["class_path"] == "mhc_vision.data.ImageFolderDataModule"
    assert config["data"]["init_args"]["exif_orientation"] is True
    assert (config["model"]["connection"], config["trainer"]["max_epochs"]) == ("mhc", 10)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 10
    assert {"val/top1", "val/loss"} <= set(summary["metrics"])
    # what it says is a command line of its own
    assert full_words(summary["command"][2:]) == summary["command"][2:]
    assert (run / "report.md").exists()
    # the same command goes on
    main(["finetune", *words, "--trainer.max_epochs", "11", "--ckpt_path", "last"])
    assert json.loads((run / "summary.json").read_text())["steps"] == 11
    main(["evaluate", str(run / "checkpoints" / "last.ckpt"), "photos", "--num-workers", "0", "--device", "cpu"])
    assert "labels: names of the model's classes" in capsys.readouterr().out


def test_a_printed_recipe_is_a_configuration_file(photos, timm_directory, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", str(photos), "--model", str(timm_directory(3)), "--print_config"])
    assert stopped.value.code == 0
    written = tmp_path / "mine.yaml"
    written.write_text(capsys.readouterr().out)
    assert full_words(["--config", str(written)]) == ["fit", "--config", str(written)]
    assert yaml.safe_load(written.read_text())["data"]["init_args"]["root"] == str(photos)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ((), (".", "null", "null")),
        (("train",), ("train", "null", "null")),
        (("train", "val"), ("train", "val", "null")),
        (("train", "test"), ("train", "null", "test")),
        (("train", "valid", "test"), ("train", "valid", "test")),
    ],
)
def test_the_layout_is_found(tmp_path, write_images, timm_directory, splits, expected):
    for place in [tmp_path / "photos" / split for split in splits] or [tmp_path / "photos"]:
        write_images(place, CLASSES, count=2)
    found = settings(full_words([str(tmp_path / "photos"), "--model", str(timm_directory(3))]))
    assert tuple(found[f"--data.{part}_split"] for part in ("train", "val", "test")) == expected
    assert ("--data.val_share" in found) == (expected[1] == "null")


def test_divided_images_without_classes_are_refused(tmp_path, write_images):
    write_images(tmp_path / "bare", ("train", "val"), count=2)
    with pytest.raises(ValueError, match=r"with train/ and val/ without class folders, expected .*/train/<class>"):
        find_photos(str(tmp_path / "bare"))


def test_classes_may_be_called_train_and_test(tmp_path, write_images, timm_directory):
    write_images(tmp_path / "vehicles", ("train", "test", "car"), count=2)
    found = settings(full_words([str(tmp_path / "vehicles"), "--model", str(timm_directory(3))]))
    assert found["--data.train_split"] == "."


def test_what_is_given_takes_the_place_of_the_recipe(photos, timm_directory, tmp_path):
    given = ("--out=here", "--trainer.max_steps", "8", "--data.batch_size=4", "--model.lr", "0.5")
    found = full_words(["--model", str(timm_directory(3)), *given, str(photos), "--model.warmup_steps", "1"])
    options = settings([word for word in found if "=" not in word])
    for name in ("trainer.max_epochs", "data.total_batch_size", "model.warmup_epochs"):
        assert f"--{name}" not in options
    assert found.count("--model.lr") == 1
    assert "--trainer.default_root_dir=here" in found
    (tmp_path / "mine.yaml").write_text("data: {root: elsewhere, img_size: 32}\nmodel: {model_args: {depth: 1}}\n")
    found = settings(full_words([str(photos), "--model", "test_vit", "--config", str(tmp_path / "mine.yaml")]))
    assert found["--data.root"] == str(photos)
    assert not {"--data.img_size", "--model.model_args.drop_path_rate"} & set(found)


def test_the_recipe_follows_from_the_number_of_images():
    images = start_images("vit_small_patch14_reg4_dinov2_mhc")
    # its own 518 pixels take seven times as long
    assert (images.img_size, images.own_size, images.crop_pct) == (224, 518, 1.0)
    assert images.mean == pytest.approx((0.485, 0.456, 0.406))
    recipes = [photo_recipe(count, images, has_gpu=False, given=[]) for count in (10, 200, 201, 3_000, 40_000, 10**6)]
    chosen = [(recipe["trainer.max_epochs"], recipe["data.total_batch_size"]) for recipe in recipes]
    assert chosen == [(40, 10), (40, 16), (30, 32), (20, 64), (10, 128), (5, 128)]
    rates = [recipe["model.lr"] for recipe in recipes]
    assert rates == sorted(rates)
    assert rates[-1] == 1e-4
    assert recipes[0]["trainer.precision"] == "32-true"
    assert all(recipe["data.exif_orientation"] for recipe in recipes)
    # a limit of time leaves the schedule its length, steps are one themselves
    limits = ({"max_time": "00:01:00:00"}, {"max_steps": "9"})
    limited = [photo_recipe(10, images, False, [Given("here", {"trainer": limit})]) for limit in limits]
    assert ["trainer.max_epochs" in recipe for recipe in limited] == [True, False]


def test_a_model_of_usual_size_keeps_it():
    assert start_images("vit_base_patch16_384").img_size == 384
    with pytest.raises(ValueError, match=r"model: got 'vit_base_patch16_224\.none'"):
        start_images("vit_base_patch16_224.none")


def test_mistakes_are_named(photos, tmp_path, write_images, refused):
    model = ("--model", "test_vit")
    empty = tmp_path / "empty"
    (empty / ".hidden").mkdir(parents=True)
    one = write_images(tmp_path / "one", ("only",))
    write_images(tmp_path / "half" / "val", CLASSES)
    (tmp_path / "file.yaml").write_text("lr: 1.0\n")
    for words, said in (
        ((tmp_path / "nowhere", *model), "which is not there, expected a folder with class folders"),
        (("fti", *model), "nearest: fit"),
        ((photos / "blue" / "0.png", *model), "which is a file"),
        ((empty, *model), f"without class folders, expected {empty}/<class>/*.jpg"),
        ((one, *model), "with one class folder, only, expected at least two"),
        ((tmp_path / "half", *model), "with val/ alone, expected"),
        ((photos,), "model: got none, expected --model NAME"),
        ((photos, "--model", tmp_path / "file.yaml"), "model: got settings from "),
        ((photos, "--model", "vit_smal_patch14_reg4_dinov2_mhc"), "nearest: vit_small_patch14_reg4_dinov2_mhc"),
        ((photos, "--model", "vit_smal_patch16_224"), "nearest: vit_small_patch16_224"),
        ((photos, one, *model), "expected one folder"),
        (("test", photos, *model), "after test, expected --config RUN/config.yaml"),
        ((photos, *model, "--data", "DigitsDataModule"), "data: got DigitsDataModule in --data, expected none"),
        ((photos, *model, "--config", "digits"), "data: got DigitsDataModule in "),
        ((photos, *model, "--data.root", one), "data.root: got it with PHOTOS"),
        ((photos, *model, "--data.batchsize", "3"), "data.batchsize: ImageFolderDataModule has no such option"),
        ((photos, *model, "--model.lrr", "3"), "--model.lrr: there is no such option; nearest: --model.lr"),
    ):
        message = refused(*words)
        assert message.startswith("mhc-vision: error: "), words
        assert said in message, words


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of shelves and of fences, as cameras held in four ways store them."""
    folder = tmp_path_factory.mktemp("camera") / "photos"
    random = np.random.default_rng(0)
    for name in ("fence", "shelf"):
        (folder / name).mkdir(parents=True)
        for number in range(32):
            pixels = random.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[np.arange(32) % 8 < 4] += 150
            upright = pixels if name == "shelf" else pixels.transpose(1, 0, 2)
            exif = Image.Exif()
            exif[0x0112], turns = ((1, 0), (3, 2), (6, 1), (8, 3))[number % 4]
            stored = Image.fromarray(np.rot90(upright, turns).copy())
            stored.save(folder / name / f"{number:02}.jpg", exif=exif)
    return folder


def test_photos_are_upright_in_training_evaluation_prediction_and_export(camera, timm_directory, tmp_path, capsys):
    run, quick = tmp_path / "run", ("--num-workers", "0", "--device", "cpu")
    recipe = ("--trainer.max_epochs", "4", "--model.lr", "0.01", "--model.layer_decay", "1", "--data.hflip", "0")
    words = (*recipe, "--data.train_scale", "[1.0, 1.0]", "--data.crop_pct", "1.0", *QUIET)
    main(["finetune", str(camera), "--model", str(timm_directory(7)), "--out", str(run), *words])
    # of photos that lie on their sides, a shelf is a fence
    assert json.loads((run / "summary.json").read_text())["metrics"]["val/top1"] == 1
    checkpoint, exported = run / "checkpoints" / "last.ckpt", tmp_path / "exported"
    export_checkpoint(checkpoint, exported)
    capsys.readouterr()
    for model in (checkpoint, exported):
        figures = tmp_path / "figures.json"
        main(["evaluate", str(model), str(camera), "--json", str(figures), *quick])
        record = json.loads(figures.read_text())
        assert record["metrics"]["top1"] == 1
        assert record["settings"]["exif_orientation"] is True
        right = {}
        for choice in ("auto", "on", "off"):
            out = tmp_path / f"{choice}.json"
            words = ("--exif-orientation", choice, *quick, "--format", "json", "--out", str(out), "--force")
            main(["predict", str(model), str(camera), *words])
            found = json.loads(out.read_text())
            assert found["settings"]["exif_orientation"] == (choice != "off")
            right[choice] = sum(
                image["predictions"][0]["class"] == Path(image["image"]).parent.name for image in found["images"]
            )
        assert right["auto"] == right["on"] == 64
        assert right["off"] == 32


def test_models_that_do_not_say_predict_upright_and_evaluate_as_published(camera, timm_directory, tmp_path):
    model, quick = str(timm_directory(2)), ("--num-workers", "0", "--device", "cpu")
    config = json.loads((Path(model) / "config.json").read_text())
    (Path(model) / "config.json").write_text(json.dumps({**config, "label_names": ["fence", "shelf"]}))
    main(["predict", model, str(camera), *quick, "--format", "json", "--out", str(tmp_path / "p.json")])
    main(["evaluate", model, str(camera), *quick, "--json", str(tmp_path / "e.json")])
    applied = [json.loads((tmp_path / f"{name}.json").read_text())["settings"]["exif_orientation"] for name in "pe"]
    assert applied == [True, False]
