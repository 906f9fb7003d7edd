"""`mhc_vision.finetune`, `mhc_vision.train` and `mhc_vision.predict`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.io import write_png

import mhc_vision

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
TINY = {**QUIET, "model.model_args.depth": 1, "max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> "mhc_vision.api.Run":
    """A short training on the digits."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return mhc_vision.train(["digits", "connections/mhc"], out=out, num_streams=2, **TINY)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four noisy images of each of two classes."""
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            image = torch.randint(256, (3, 20, 24), dtype=torch.uint8)
            write_png(image, str(tmp_path / "photos" / name / f"{number}.png"))
    return tmp_path / "photos"


def test_train_leaves_a_run(trained):
    assert trained.best_checkpoint == trained.directory / "checkpoints" / "best.ckpt"
    assert trained.last_checkpoint.is_file()
    assert 0 <= trained.metrics["val/top1"] <= 1
    config = yaml.safe_load((trained.directory / "config.yaml").read_text())
    assert (config["model"]["connection"], config["model"]["num_streams"]) == ("mhc", 2)
    assert (trained.directory / "report.md").is_file()


def test_finetune_takes_a_recipe_and_a_checkpoint(trained, tmp_path):
    options = {name: value for name, value in TINY.items() if not name.startswith("model.")}
    run = mhc_vision.finetune(trained.last_checkpoint, "finetune/digits", out=tmp_path / "run", lr=1e-4, **options)
    assert run.directory == tmp_path / "run"
    config = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert (config["model"]["lr"], config["model"]["connection"]) == (1e-4, "mhc")


def test_finetune_takes_a_folder_and_predict_its_model(photos, tmp_path, trained):
    run = mhc_vision.finetune(
        "local-dir:" + str(_directory(tmp_path)), photos, out=tmp_path / "run", max_epochs=1, num_workers=0, **QUIET
    )
    assert set(run.metrics) >= {"val/top1", "val/loss"}
    (photos / "bee" / "text.jpg").write_text("no image")
    found = mhc_vision.predict(run.last_checkpoint, photos, top_k=2, device="cpu")
    assert [Path(image["image"]).parent.name for image in found.images] == ["ant"] * 4 + ["bee"] * 4
    for image in found.images:
        assert {entry["class"] for entry in image["predictions"]} == {"ant", "bee"}
        assert sum(entry["probability"] for entry in image["predictions"]) == pytest.approx(1, abs=1e-5)
    (unreadable,) = found.unreadable
    assert "text.jpg" in unreadable
    one = mhc_vision.predict(run.last_checkpoint, photos / "ant" / "0.png", top_k=1, device="cpu")
    assert one.images == [{**found.images[0], "predictions": found.images[0]["predictions"][:1]}]


def _directory(tmp_path: Path) -> Path:
    import timm
    from timm.models import save_for_hf

    model = timm.create_model("test_vit", num_classes=0, img_size=16, patch_size=8, depth=1)
    config = {"pretrained_cfg": {"input_size": [3, 16, 16]}}
    save_for_hf(model, str(tmp_path / "start"), model_config=config, safe_serialization=True)
    return tmp_path / "start"


def mistakes(photos: Path, checkpoint: Path) -> list[tuple[Callable[[], object], str]]:
    train, finetune, predict = mhc_vision.train, mhc_vision.finetune, mhc_vision.predict
    return [
        (lambda: train("digts"), "config: got digts, which is no file, expected a YAML file or a recipe"),
        (lambda: train("digits", lrr=1), "lrr: there is no such option; nearest: lr"),
        (lambda: train("digits", print_config=True), "print_config: there is no such option"),
        (lambda: train("digits", help=True), "help: there is no such option"),
        (lambda: train("digits", lr="fast"), "model.lr: got 'fast'"),
        (lambda: train("digits", lr=-1), "lr: got -1"),
        (lambda: train("digits", lr=torch.ones(1)), "lr: got tensor"),
        (lambda: train("digits", accelerator="cuda:0"), "accelerator: got 'cuda:0'"),
        (lambda: train("digits", out=checkpoint.parents[1], **TINY), "which holds a run"),
        (lambda: train("digits", out=checkpoint), "is no directory"),
        (lambda: finetune("test_vit", photos / "ant"), "without class folders"),
        (lambda: finetune("test_vit_none", photos), "model: got 'test_vit_none'"),
        (lambda: finetune(checkpoint, photos, out=photos / "run", **QUIET), "channel"),
        (lambda: finetune("none.ckpt", photos), "model: got 'none.ckpt', which is not there"),
        (lambda: finetune("test_vit", "finetune/digts"), "data: got finetune/digts, which is not there"),
        (lambda: finetune("test_vit", "finetune/digts"), "nearest: finetune/digits"),
        (lambda: predict("none.ckpt", photos), "model: got 'none.ckpt', which is not there"),
        (lambda: predict("test_vit", photos / "none"), "images: got"),
        (lambda: predict("test_vit", []), "images: got none"),
        (lambda: predict("test_vit", photos, top_k=0), "top_k: got 0"),
        (lambda: predict("test_vit", photos, exif_orientation="yes"), "exif_orientation: got 'yes'"),
    ]


def test_mistakes_raise_value_errors(photos, trained):
    for call, said in mistakes(photos, trained.last_checkpoint):
        with pytest.raises(ValueError) as raised:  # noqa: PT011  each has a text of its own
            call()
        assert said in str(raised.value)
        assert not str(raised.value).startswith("error")


def test_a_trial_of_the_code_says_nothing_of_another_run(trained):
    run = mhc_vision.train("digits", out=trained.directory, overwrite=True, fast_dev_run=True, **TINY)
    assert (run.metrics, run.best_checkpoint) == ({}, None)
    assert trained.last_checkpoint.is_file()


def test_a_diverged_run_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="not finite"):
        mhc_vision.train("digits", out=tmp_path / "run", lr=1e30, gradient_clip_val=None, **TINY)
