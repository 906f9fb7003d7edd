import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from mhc_vision.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint of a short run on the digits with this connection; a one-block model, trained once."""
    made: dict[str, Path] = {}

    def get(connection: str) -> Path:
        if connection not in made:
            run_dir = tmp_path_factory.mktemp(connection)
            main(
                [
                    *("--config", str(CONFIGS / "digits.yaml")),
                    *("--config", str(CONFIGS / "connections" / f"{connection}.yaml")),
                    *("--model.model_args.depth", "1", "--data.batch_size", "8"),
                    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"),
                    *("--trainer.limit_val_batches", "2", "--trainer.enable_progress_bar", "false"),
                    *("--trainer.enable_model_summary", "false", "--trainer.default_root_dir", str(run_dir)),
                ]
            )
            made[connection] = run_dir / "checkpoints" / "last.ckpt"
        return made[connection]

    return get


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["analyze", *words])
    assert stop.value.code == 2
    return capsys.readouterr().err


def numbers(out: Path) -> dict:
    return json.loads((out / "analysis.json").read_text())


@pytest.mark.parametrize("connection", ["baseline", "mhc"])
def test_a_checkpoint_is_analysed_on_the_images_of_its_run(connection, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    main(["analyze", str(checkpoint(connection)), "--out", str(out), "--num-images", "40"])
    printed = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in printed
    assert "largest composite Amax gain, forward" in printed
    # its labels are the model's classes
    assert ("loss with the maps set back, minus loss" in printed) == (connection == "mhc")
    record = numbers(out)
    assert record["num_images"] == 40
    assert record["data"] == "evaluation images of DigitsDataModule"
    assert record["model"]["connection"] == (None if connection == "baseline" else "mhc")
    # rows of mHC's maps are normalised last; plain ones are 1
    assert record["gains"]["composite_forward"] == pytest.approx([1] * 2, abs=1e-5)
    if connection == "baseline":
        assert record["connection_matrix"]["matrix"] == torch.ones(3, 3).tril().tolist()
    else:
        assert set(record["coefficients"]["num_images"]) == set("0123456789")
        assert (out / "figures" / "sinkhorn.png").read_bytes().startswith(b"\x89PNG")


def test_an_exported_directory_on_class_folders(timm_directory, write_images, tmp_path):
    folder = write_images(tmp_path / "images" / "val", ("green", "red"), count=2).parent
    main(["analyze", str(timm_directory(2)), "--data", str(folder), "--out", str(tmp_path / "out")])
    record = numbers(tmp_path / "out")
    assert record["num_images"] == 4
    assert record["data"] == f"images in {folder / 'val'}"


def test_noise_only_where_it_is_asked_for(tmp_path, capsys):
    words = ("test_vit", "--weights", "initial", "--out", str(tmp_path / "out"))
    assert "give --data" in refused(capsys, *words)
    main(["analyze", *words, "--data", "random", "--num-images", "3"])
    assert numbers(tmp_path / "out")["data"] == "random noise, no images"
    assert numbers(tmp_path / "out")["contribution"] is None


def test_bad_input_is_refused_before_any_work(checkpoint, tmp_path, capsys):
    out = ("--out", str(tmp_path / "out"))
    assert "got ResNet, expected one of timm's VisionTransformer" in refused(capsys, "resnet18", *out)
    assert "expected a checkpoint, a directory or a timm model; nearest: " in refused(capsys, "vit_tny", *out)
    assert "num_images: got 0, expected a whole number from 1" in refused(capsys, "test_vit", *out, "--num-images", "0")
    message = refused(capsys, str(checkpoint("mhc")), *out, "--weights", "initial")
    assert "weights: got 'initial'" in message
    (tmp_path / "images" / "cat").mkdir(parents=True)
    assert "data: " in (message := refused(capsys, str(checkpoint("mhc")), *out, "--data", str(tmp_path / "images")))
    assert "for images of 1 channel" in message
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert "is there already" in refused(capsys, "test_vit", "--out", str(tmp_path / "mine"))
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named(tmp_path, capsys):
    words = ("test_vit", "--weights", "initial", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "none"))
    assert f"{tmp_path / 'none'}, which is not there" in refused(capsys, *words)


def test_checkpoints_of_other_libraries_are_refused(tmp_path, capsys):
    model = timm.create_model("test_vit", depth=1)
    other = tmp_path / "other.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, other)
    lightning = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": model.state_dict(), "global_step": 3, "hyper_parameters": {"lr": 0.1}}, lightning)
    pickled = tmp_path / "pickled.pt"
    torch.save(model, pickled)
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    for path, reason in (
        (other, "no checkpoint of a training run"),
        (lightning, "was not made by mhc-vision train"),
        (pickled, "torch cannot load it"),
        (text, "no checkpoint"),
    ):
        message = refused(capsys, str(path), "--out", str(tmp_path / "out"))
        assert reason in message
        assert str(path) in message


def test_a_run_whose_data_has_moved(checkpoint, tmp_path, capsys):
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    path = run_dir / "checkpoints" / "last.ckpt"
    path.write_bytes(checkpoint("mhc").read_bytes())
    out = ("--out", str(tmp_path / "out"))
    assert "no run directory with a config.yaml" in refused(capsys, str(path), *out)
    config = run_dir / "config.yaml"
    config.write_text("model: {}\n")
    assert "without a section `data`" in refused(capsys, str(path), *out)
    config.write_text("data:\n  class_path: mhc_vision.data.ImageFolderDataModule\n  init_args: {root: /not/there}\n")
    assert "/not/there is missing" in refused(capsys, str(path), *out)
