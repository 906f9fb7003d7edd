import itertools
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.io import write_jpeg

from mhc_vision.cli import COMMANDS, main
from mhc_vision.training.cli import TrainCLI

CONFIGS = Path(__file__).parents[2] / "configs"


def _steps(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if "train/loss" in record]


def test_a_run_leaves_its_config_log_checkpoints_summary_and_report(train):
    run_dir = train(connection="mhc")
    # one validation is no curve of an accuracy
    figures = ("classes", "confusion", "loss", "mistakes")
    assert sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()) == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        *(f"figures/{name}{suffix}" for name in figures for suffix in (".png", ".svg")),
        "metrics.jsonl",
        "predictions.npz",
        "report.html",
        "report.md",
        "summary.json",
    ]
    assert _steps(run_dir) == [0, 1, 2]
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["model"]["connection"] == "mhc"
    assert config["model"]["lr"] == 2.0e-3
    assert config["seed_everything"] == 0
    assert config["trainer"]["use_distributed_sampler"] is False
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["name"] == "test_vit"
    assert summary["connection"] == "mhc"
    assert summary["num_streams"] == 4
    assert summary["steps"] == 3
    assert 0 <= summary["metrics"]["val/top1"] <= 1
    assert set(summary["versions"]) == {"mhc_vision", "torch", "timm", "lightning"}
    assert summary["command"][:3] == ["mhc-vision", "train", "fit"]
    # nC(n^2+2n) + n^2+2n+3 in each of two branches, and nC for the weight of the norm if there is one
    params = summary["params"]
    assert params["connections"] >= 2 * (4 * 64 * 24 + 24 + 3)
    plain = params["total"] - params["connections"]
    assert params["extra_percent"] == pytest.approx(100 * params["connections"] / plain, abs=1e-3)


def test_the_saved_config_repeats_the_run(train, tmp_path):
    first = train(connection="shc")
    main(["--config", str(first / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "again")])
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (first, tmp_path / "again")]
    for name, value in weights[0]["state_dict"].items():
        torch.testing.assert_close(value, weights[1]["state_dict"][name], rtol=0, atol=0)


def test_an_epoch_may_be_continued_in_the_same_directory(train):
    run_dir = train()
    train("--ckpt_path", str(run_dir / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "2")
    assert _steps(run_dir) == [0, 1, 2, 3, 4, 5]
    checkpoints = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert checkpoints == ["best.ckpt", "last.ckpt"]
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_a_trial_of_the_code_leaves_the_run_directory_as_it_was(train):
    run_dir = train()
    saved = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    train("--trainer.fast_dev_run", "true")
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == saved
    assert not train("--trainer.fast_dev_run", "true", run_dir=run_dir.with_name("trial")).exists()


def test_the_best_checkpoint_is_chosen_by_the_metric_of_the_data(train, tmp_path):
    for split, name, index in itertools.product(("train", "val"), ("cat", "dog"), range(12)):
        path = tmp_path / "images" / split / name / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jpeg(torch.full((3, 8, 8), 10 * index, dtype=torch.uint8), str(path))
    run_dir = train(
        *("--data", "InMemoryFolderDataModule", "--data.root", str(tmp_path / "images"), "--data.img_size", "8"),
        *("--data.metric", "mean_per_class"),
    )
    summary = json.loads((run_dir / "summary.json").read_text())
    assert 0 <= summary["metrics"]["val/mean_per_class"] <= 1
    callbacks = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]
    monitors = {state["monitor"] for state in callbacks.values() if "monitor" in state}
    assert monitors == {"val/mean_per_class", None}


def test_a_run_from_before_there_were_some_options_goes_on(train):
    run_dir = train()
    last = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for name in ("metric", "layer_decay"):
        del content["hyper_parameters"][name]
    torch.save(content, last)
    train("--ckpt_path", str(last), "--trainer.max_epochs", "2")
    assert torch.load(last, weights_only=True)["global_step"] == 6


def test_a_data_module_of_ones_own_need_not_know_a_metric(train, tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(
        "from lightning.pytorch import LightningDataModule\n"
        "from mhc_vision.data import DigitsDataModule\n"
        "class OwnDataModule(LightningDataModule):\n"
        "    num_classes, in_chans, img_size = 10, 1, 8\n"
        "    def __init__(self, batch_size: int = 8):\n"
        "        super().__init__()\n"
        "        self.digits = DigitsDataModule(batch_size)\n"
        "        self.train_dataloader = self.digits.train_dataloader\n"
        "        self.val_dataloader = self.digits.val_dataloader\n"
        "    def on_after_batch_transfer(self, batch, index):\n"
        "        return self.digits.on_after_batch_transfer(batch, index)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run_dir = train("--data", "own_data.OwnDataModule")
    assert 0 <= json.loads((run_dir / "summary.json").read_text())["metrics"]["val/top1"] <= 1


def test_validate_and_test_report_a_checkpoint(train, capsys):
    run_dir = train()
    checkpoint = str(run_dir / "checkpoints" / "last.ckpt")
    train("--ckpt_path", checkpoint, subcommand="validate")
    assert "\nvalidation: top1 " in capsys.readouterr().out
    train("--ckpt_path", checkpoint, subcommand="test")
    assert "test: top1 " in capsys.readouterr().out


@pytest.mark.parametrize("prefix", [[], ["train"], ["train", "fit"]])
def test_train_and_fit_may_be_left_out(prefix, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*prefix, "--print_config", "--model.name", "test_vit", "--data", "DigitsDataModule"])
    assert stopped.value.code == 0
    assert "name: test_vit" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_commands(words, capsys):
    main(words)
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_an_unknown_command_is_named_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["trian", "--config", "x.yaml"])
    assert stopped.value.code == 2
    assert "command: got 'trian', expected one of train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.learning_rate", "1"], "learning_rate"),
        (["--model.connection", "hc"], "hc"),
        (["--model.name", "vit_bse_patch16_224"], "nearest: .*vit_base_patch16_224"),
        (["--model.lr", "-1"], "lr: got -1.0, expected a finite number above 0"),
        (["--data.batch_size", "0"], "batch_size: got 0, expected a whole number from 1"),
        (["--config", "no_such_file.yaml"], "no_such_file.yaml"),
    ],
)
def test_bad_input_ends_with_a_message_and_leaves_no_run_directory(train, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        train(*words)
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("folders", "reason"), [([], "is missing"), (["train/cat"], "has no folder val")])
def test_what_the_data_refuse_is_said_without_wrapping(tmp_path, capsys, folders, reason):
    root = tmp_path / "images"
    for folder in folders:
        (root / folder).mkdir(parents=True)
    recipe = CONFIGS / "imagenet" / "vit_small_patch16_224_better_plain.yaml"
    words = ["--config", str(recipe), "--data.root", str(root), "--trainer.accelerator", "cpu"]
    words += ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--trainer.default_root_dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert f"mhc-vision: error: root: {root} {reason}; expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_a_file_is_refused(train, tmp_path, capsys):
    (tmp_path / "typo.yaml").write_text("model:\n  conection: mhc\n")
    with pytest.raises(SystemExit):
        train("--config", str(tmp_path / "typo.yaml"))
    assert "conection" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.warmup_epochs", "9"], "warmup_steps: got 27, expected at most the 3 steps of the run"),
        (
            ["--data.total_batch_size", "9", "--trainer.accumulate_grad_batches", "2"],
            r"total_batch_size: got 9, expected a multiple of 2: 1 processes x 2 accumulated batches .*\n",
        ),
        (["--data.total_batch_size", "1438"], "expected at least 1438: batch_size=1438 in each of 1 processes"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_setup_refuses_is_a_message_and_keeps_the_earlier_config(train, capsys, words, message):
    run_dir = train()
    saved = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        train("--overwrite", "true", *words)
    assert stopped.value.code == 2
    assert re.search(f"^mhc-vision: error: .*{message}", capsys.readouterr().err, re.MULTILINE)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == saved


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_what_the_setup_of_an_evaluation_refuses_is_a_message(train, capsys, monkeypatch, subcommand):
    with pytest.raises(SystemExit) as stopped:
        train("--data.total_batch_size", "9", "--trainer.accumulate_grad_batches", "2", subcommand=subcommand)
    assert stopped.value.code == 2
    assert "mhc-vision: error: total_batch_size: got 9, expected a multiple of" in capsys.readouterr().err

    def broken(module, batch, accuracy, loss_name):
        raise ValueError("from within a step")

    monkeypatch.setattr("mhc_vision.training.module.ClassificationModule._evaluate", broken)
    with pytest.raises(ValueError, match="from within a step"):
        train(subcommand=subcommand)


def test_an_error_in_training_keeps_its_traceback(train, monkeypatch):
    def broken(module, batch, batch_idx):
        raise ValueError("from within a step")

    monkeypatch.setattr("mhc_vision.training.module.ClassificationModule.training_step", broken)
    with pytest.raises(ValueError, match="from within a step"):
        train()


def test_the_images_of_a_step_may_be_given_for_all_accumulated_batches(train):
    run_dir = train("--data.total_batch_size", "12", "--trainer.accumulate_grad_batches", "3")
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    assert checkpoint["DigitsDataModule"]["batch_size"] == 4


@pytest.mark.parametrize(("later", "total"), [("batch_size", None), ("total_batch_size", 12)])
def test_of_two_batch_sizes_the_later_one_counts_and_says_so(tmp_path, capsys, later, total):
    (tmp_path / "recipe.yaml").write_text("data: {init_args: {batch_size: 32, total_batch_size: 64}}\n")
    words = ["--config", str(CONFIGS / "digits.yaml"), "--config", str(tmp_path / "recipe.yaml")]
    words += [f"--data.{later}", "12", "--trainer.default_root_dir", str(tmp_path / "run")]
    data = TrainCLI(words, run=False).datamodule
    assert (data.batch_size, data.total_batch_size) == (12, total)
    said = "data.batch_size: 12 replaces the data.total_batch_size 64 given before it\n"
    assert (said in capsys.readouterr().out) == (later == "batch_size")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "OVERLAY"], {"depth": 2, "constraint": "identity"}),
        (["--config", "OVERLAY", "--model.model_args.depth", "3"], {"depth": 3, "constraint": "identity"}),
        (["--model.model_args.mlp_ratio", "1.5", "--config", "OVERLAY"], {"depth": 2, "mlp_ratio": 1.5}),
        (["--model.model_args.constraint", "sinkhorn", "--config", "OVERLAY"], {"constraint": "identity"}),
        (["--config", "OVERLAY", "--model.model_args", "{depth: 1}"], {"depth": 1, "constraint": None}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_model_arguments_of_an_overlay_lie_on_top_of_the_recipe(tmp_path, words, expected):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {connection: mhc, model_args: {depth: 2, patch_size: 8}}\n")
    overlay = CONFIGS / "connections" / "ihc.yaml"
    words = [str(overlay) if word == "OVERLAY" else word for word in words]
    files = ["--config", str(CONFIGS / "digits.yaml"), "--config", str(recipe)]
    if "--model.model_args" in words:
        words += ["--model.model_args.patch_size", "8"]
    cli = TrainCLI([*files, *words, "--trainer.default_root_dir", str(tmp_path)], run=False)
    arguments = cli.model.hparams["model_args"]
    assert {key: arguments.get(key) for key in expected} == expected
    saved = cli.config["model"]["model_args"]
    assert {key: saved.get(key) for key in expected} == expected


def test_the_flat_and_the_long_form_of_a_data_option_are_the_same(train):
    for form in ("--data.batch_size", "--data.init_args.batch_size"):
        run_dir = train(form, "4", "--overwrite", "true")
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        assert config["data"]["init_args"]["batch_size"] == 4


def test_an_interrupt_in_the_middle_of_a_step_ends_with_status_130(train, monkeypatch, capsys):
    def interrupted(module, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr("mhc_vision.training.module.ClassificationModule.training_step", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train()
    assert stopped.value.code == 130
    assert capsys.readouterr().err.endswith("mhc-vision: interrupted\n")
