import importlib.util
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.io import write_jpeg

from mhc_vision.cli import main
from mhc_vision.data import DigitsDataModule
from mhc_vision.inference.load_model import load_model
from mhc_vision.layers import connection_parameters
from mhc_vision.predictions import Predictions

CONFIGS = Path(__file__).parents[2] / "configs"
COMBINATIONS = [
    *((method, connection) for method in ("full", "lora") for connection in ("baseline", "shc", "dhc", "mhc")),
    *(("connections", connection) for connection in ("shc", "dhc", "mhc")),
]


def _summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def _accuracy(checkpoint: Path) -> float:
    """Of a checkpoint's model on the digits' 360 test images, without Lightning."""
    data = DigitsDataModule()
    images, labels = data.eval_set.tensors
    images, labels = data.batch_augment.eval()(images, labels)
    model = load_model(str(checkpoint), needs_rgb_classes=False).model
    with torch.inference_mode():
        return (model(images).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("method", ["full", "lora", "linear"])
@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_step_zero_has_the_accuracy_of_the_plain_model(pretrained, built, method, connection):
    cli = built(method=method, connection=connection)
    (start,) = cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    plain = _summary(pretrained)["metrics"]
    assert start["val/top1"] == plain["val/top1"] > 0.5
    # the same function up to fp32 rounding
    assert start["val/loss"] == pytest.approx(plain["val/loss"], abs=1e-5)


@pytest.mark.parametrize(("method", "connection"), COMBINATIONS)
def test_a_run_trains_what_its_method_says_and_leaves_a_model_that_can_be_used(
    pretrained, finetune, built, method, connection
):
    start = built(method=method, connection=connection).model.model.state_dict()
    run_dir = finetune(method=method, connection=connection)
    summary = _summary(run_dir)
    assert (summary["method"], summary["source"]) == (method, str(pretrained / "checkpoints" / "last.ckpt"))
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    state = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
    moved = {key for key, value in state.items() if not torch.equal(value, start[key])}
    kinds = {"head" if "head." in key else "lora" if ".lora_" in key else "connection" if ".connection" in key
             else "backbone" for key in moved}  # fmt: skip
    own = set() if connection == "baseline" else {"connection"}
    assert kinds == {"full": {"head", "backbone"}, "lora": {"head", "lora"}, "connections": {"head"}}[method] | own
    # built again, adapters merged, it has the accuracy that the run saw
    assert _accuracy(run_dir / "checkpoints" / "last.ckpt") == pytest.approx(summary["metrics"]["val/top1"], abs=1e-6)


@pytest.mark.parametrize("connection", ["baseline", "mhc"])
def test_a_linear_probe_finds_a_head_and_leaves_the_rest_alone(finetune, built, connection):
    start = built(connection=connection, method="linear").model.model.state_dict()
    run_dir = finetune(
        "--model.probe_lrs", "[0.01,0.1]", "--model.probe_cs", "[1.0]", method="linear", connection=connection
    )
    summary = _summary(run_dir)
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {key for key in start if not torch.equal(state[f"model.{key}"], start[key])} == {"head.weight", "head.bias"}
    probe = json.loads((run_dir / "probe.json").read_text())
    candidates = probe["candidates"]
    assert probe["chosen"] == max(candidates, key=lambda one: one["accuracy"])
    assert probe["metrics"] == summary["metrics"]
    assert [(one["solver"], one["value"]) for one in candidates] == [("sgd", 0.01), ("sgd", 0.1), ("logistic", 1.0)]
    assert all(0.5 < one["accuracy"] <= 1 for one in candidates)
    assert summary["metrics"]["val/top1"] > 0.7
    assert _accuracy(run_dir / "checkpoints" / "last.ckpt") == pytest.approx(summary["metrics"]["val/top1"], abs=1e-6)
    assert json.loads((run_dir / "metrics.jsonl").read_text())["val/top1"] == summary["metrics"]["val/top1"]
    assert summary["params"]["trainable"] == 650
    assert (run_dir / "config.yaml").is_file()
    assert (run_dir / "report.md").is_file()


def test_neighbours_vote_on_the_features_of_the_frozen_model(finetune):
    run_dir = finetune(method="knn", connection="mhc")
    summary = _summary(run_dir)
    assert summary["metrics"]["val/top1"] > 0.7
    assert summary["params"]["trainable"] == 0
    assert not (run_dir / "checkpoints").exists()
    predictions = Predictions.load(run_dir / "predictions.npz")
    assert predictions.place == "validation of the probe"
    right, total = predictions.right().sum(), predictions.totals().sum()
    assert right / total == pytest.approx(summary["metrics"]["val/top1"])
    assert (
        "What it takes for what" in (run_dir / "report.md").read_text()
        or "confus" in (run_dir / "report.md").read_text()
    )


def test_connections_make_no_difference_to_a_probe(finetune):
    words = ("--overwrite", "true")
    runs = ((_summary(finetune(*words, method="knn", connection=one))) for one in ("baseline", "dhc"))
    found = [summary["metrics"]["val/top1"] for summary in runs]
    # features equal up to rounding: at most one of 360 votes turns
    assert found[0] == pytest.approx(found[1], abs=1.1 / 360)


@pytest.mark.parametrize("method", ["knn", "linear"])
def test_a_probe_that_is_terminated_leaves_nothing(finetune, monkeypatch, tmp_path, capsys, method):
    def terminated(module, batch, batch_idx, dataloader_idx=0):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("mhc_vision.finetuning.module.FinetuneModule.predict_step", terminated)
    with pytest.raises(SystemExit) as stopped:
        finetune(method=method)
    assert stopped.value.code == 143
    assert capsys.readouterr().err.endswith("mhc-vision: terminated\n")
    assert not (tmp_path / "run").exists()


def test_a_probe_may_be_made_again_but_not_over_a_training(finetune, capsys):
    run_dir = finetune(method="knn")
    finetune("--ckpt_path", "last", method="knn")
    assert (run_dir / "metrics.jsonl").read_text().count("val/top1") == 1
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints" / "best.ckpt").touch()
    assert "holds a training" in _refused(capsys, lambda: finetune("--ckpt_path", "last", method="knn"))


def test_a_run_with_an_average_ends_with_it(finetune):
    run_dir = finetune("--trainer.callbacks+=EMA", "--trainer.callbacks.decay", "0.5", method="lora", connection="mhc")
    top1 = _summary(run_dir)["metrics"]["val/top1"]
    assert _accuracy(run_dir / "checkpoints" / "last.ckpt") == pytest.approx(top1, abs=1e-6)


def test_all_weights_learn_from_a_start_that_had_adapters(finetune, built, tmp_path):
    run_dir = finetune(method="lora", connection="mhc")
    model = built("--model.name", str(run_dir / "checkpoints" / "last.ckpt"), connection="mhc").model
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_are_tested_with_adapters(finetune, words, capsys):
    run_dir = finetune(method="lora", connection="mhc")
    checkpoint = ("--ckpt_path", str(run_dir / "checkpoints" / "last.ckpt"))
    main(["finetune", "test", *words(method="lora", connection="mhc"), *checkpoint])
    refused = _refused(capsys, lambda: main(["finetune", "test", *words(connection="mhc"), *checkpoint]))
    assert "model.method: got 'full', expected 'lora'" in refused


def test_a_run_goes_on_from_its_checkpoint(finetune):
    run_dir = finetune(method="lora", connection="mhc")
    finetune("--ckpt_path", "last", "--trainer.max_epochs", "2", method="lora", connection="mhc")
    assert _summary(run_dir)["steps"] == 10


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes of 8 x 8 images in folders for training, validation and test."""
    for split, size in (("train", 8), ("val", 4), ("test", 6)):
        for label, name in enumerate(("dark", "light")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(size):
                write_jpeg(
                    torch.full((3, 8, 8), 20 + 180 * label + index, dtype=torch.uint8), str(folder / f"{index}.jpg")
                )
    return tmp_path / "images"


@pytest.mark.parametrize("method", ["full", "linear"])
@pytest.mark.parametrize("data", ["InMemoryFolderDataModule", "ImageFolderDataModule"])
def test_other_classes_with_test_images_of_their_own(folders, tmp_path, method, data, capsys):
    plain = tmp_path / "plain"
    common = (
        *("--data", data, "--data.root", str(folders), "--data.img_size", "8", "--data.batch_size", "8"),
        *(() if data.startswith("InMemory") else ("--data.num_workers", "0")),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"),
    )
    sizes = ("--model.model_args.patch_size", "4", "--model.model_args.depth", "1")
    main(["train", *common, "--model.name", "test_vit", *sizes, "--trainer.default_root_dir", str(plain)])
    main(
        [
            *("finetune", *common, "--data.test_split", "test", "--data.metric", "mean_per_class"),
            *("--model.name", str(plain / "checkpoints" / "last.ckpt"), "--model.connection", "mhc"),
            *("--model.method", method, "--model.new_head", "true", "--model.probe_cs", "[1.0]"),
            *("--trainer.default_root_dir", str(tmp_path / "run")),
        ]
    )
    assert "head: new (new_head); trainable parameters:" in capsys.readouterr().out
    metrics = _summary(tmp_path / "run")["metrics"]
    for split, count in (("val", 8), ("test", 12)):
        assert round(metrics[f"{split}/top1"] * count, 3) == round(metrics[f"{split}/top1"] * count)
        assert metrics[f"{split}/mean_per_class"] == pytest.approx(metrics[f"{split}/top1"])
    if method == "linear":
        assert metrics["test/top1"] == 1


def test_a_finished_run_is_not_tested_again(finetune, folders, tmp_path):
    common = (
        *("--data", "InMemoryFolderDataModule", "--data.root", str(folders), "--data.img_size", "8"),
        *("--data.test_split", "test", "--data.batch_size", "8"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"),
    )
    plain = tmp_path / "plain"
    sizes = ("--model.model_args", "{patch_size: 4, depth: 1}")
    main(["train", *common, "--model.name", "test_vit", *sizes, "--trainer.default_root_dir", str(plain)])
    again = ("finetune", *common, "--model.name", str(plain / "checkpoints" / "last.ckpt"))
    for more in ((), ("--ckpt_path", "last")):
        main([*again, *more, "--trainer.default_root_dir", str(tmp_path / "run")])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum("test/top1" in line for line in lines) == 1


def test_a_model_that_timm_could_not_load_again_is_not_exported(finetune, tmp_path, capsys, monkeypatch):
    run_dir = finetune(connection="mhc")
    monkeypatch.setattr("mhc_vision.inference.export_timm.is_model", lambda name: False)
    words = ["export", str(run_dir / "checkpoints" / "last.ckpt"), str(tmp_path / "exported")]
    assert "test_vit_mhc, which timm has no name for" in _refused(capsys, lambda: main(words))
    assert not (tmp_path / "exported").exists()


def test_a_run_that_is_killed_before_its_test_has_no_summary(built, monkeypatch, tmp_path):
    cli = built()
    monkeypatch.setattr(type(cli.datamodule), "has_test_set", True)

    def kill(*args: object, **kwargs: object) -> None:
        raise SystemExit(137)

    monkeypatch.setattr(cli.trainer, "test", kill)
    with pytest.raises(SystemExit):
        cli.fit(model=cli.model, datamodule=cli.datamodule)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_the_test_of_a_job_of_slurm_is_of_the_weights_at_the_end(built, monkeypatch, tmp_path):
    job = {"JOB_NAME": "mhc", "JOB_ID": "7", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    cli = built()
    monkeypatch.setattr(type(cli.datamodule), "has_test_set", True)
    loaded: list[object] = []
    monkeypatch.setattr(cli.model, "on_load_checkpoint", loaded.append)
    # in a run that was requeued on its way
    requeued = tmp_path / "run" / "hpc_ckpt_1.ckpt"
    monkeypatch.setattr(cli.model, "on_train_end", lambda: cli.trainer.save_checkpoint(requeued))
    cli.fit(model=cli.model, datamodule=cli.datamodule)
    assert requeued.is_file()
    assert "test/top1" in _summary(tmp_path / "run")["metrics"]
    assert not loaded


def _refused(capsys: pytest.CaptureFixture, run: Callable[[], object]) -> str:
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model.name", "vit_base_patch16_244"), "nearest: vit_base_patch16_224"),
        (("--model.method", "connections"), "method: got 'connections' for a plain model"),
        (("--model.method", "lora", "--model.lora_targets", "[attn.q]"), "'attn.q', which matches no linear layer"),
        (("--model.lora_rank", "0"), "lora_rank: got 0, expected a whole number from 1"),
        (("--model.layer_decay", "0"), "layer_decay: got 0"),
        (("--model.probe_lrs", "[]"), "probe_lrs: got [], expected one or more numbers"),
        (("--model.method", "knn", "--model.knn_k", "5000"), "at most 1437, the number of training images"),
        (("--model.method", "knn", "--ckpt_path", "some.ckpt"), "a probe has no steps to go on from"),
        (("--model.weights", "raw"), "has no average beside them"),
        (("--model.weights_file", "none.pth"), "with its own weights, expected a timm name"),
        (("--model.model_args", "{tanh: true}"), "got tanh without a connection"),
    ],
)
def test_bad_input_is_a_message_and_nothing_is_written(finetune, tmp_path, capsys, options, message):
    assert message in _refused(capsys, lambda: finetune(*options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "package"), [("linear", "sklearn"), ("lora", "peft")])
def test_a_missing_package_is_a_message_before_any_work(finetune, tmp_path, capsys, monkeypatch, method, package):
    monkeypatch.setitem(sys.modules, package, None)
    found = importlib.util.find_spec

    def without(name: str, *rest: str | None) -> object:
        return None if name == package else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    options = ("--data", "FakeDataModule") if method == "linear" else ()
    assert "pip install 'mhc-vision[finetune]'" in _refused(capsys, lambda: finetune(*options, method=method))
    assert not (tmp_path / "run").exists()


def test_a_start_whose_images_were_normalised_otherwise_is_warned_of(built, monkeypatch):
    cli = built()
    monkeypatch.setattr(cli.datamodule.batch_augment, "mean", torch.tensor([0.1]).view(1, 1, 1))
    with pytest.warns(UserWarning, match=r"data.mean is \[0.1\], but .* was trained with \[0.5\]"):
        cli.fit(model=cli.model, datamodule=cli.datamodule)


def test_a_baseline_of_a_start_with_connections_is_refused_and_silence_keeps_them(finetune, tmp_path, capsys):
    run_dir = finetune(connection="shc")
    start = ("--model.name", str(run_dir / "checkpoints" / "last.ckpt"))
    again = tmp_path / "again"
    message = _refused(capsys, lambda: finetune(*start, "--trainer.default_root_dir", str(again)))
    assert "connection: got null, expected 'shc', as " in message
    assert "name that, leave it out" in message
    assert not again.exists()
    silent = ["--config", str(CONFIGS / "finetune" / "digits.yaml"), *start, "--trainer.max_epochs", "1"]
    main(["finetune", *silent, "--trainer.limit_train_batches", "1", "--trainer.default_root_dir", str(again)])
    assert "head: kept (the same 10 classes)" in capsys.readouterr().out
    config = yaml.safe_load((again / "config.yaml").read_text())
    assert (config["model"]["connection"], config["model"]["num_streams"]) == ("shc", 4)
    assert _summary(again)["connection"] == "shc"
    # the record repeats the run
    main(["finetune", "--config", str(again / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "repeated")])
    assert _summary(tmp_path / "repeated")["connection"] == "shc"


def test_connections_of_the_start_have_the_parameters_of_the_record(built):
    model = built(connection="mhc").model
    for hparams in (model.hparams, model.hparams_initial):
        assert hparams["connection"] == "mhc"
        assert "class_names" not in hparams
    assert model.hparams["name"] == "test_vit"
    assert sum(parameter.numel() for _, parameter in connection_parameters(model.model)) > 0
