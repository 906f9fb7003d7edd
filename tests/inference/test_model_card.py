import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from mhc_vision.cli import main

EMA = ("--trainer.callbacks+=EMA", "--trainer.callbacks.decay", "0.9")


def export(checkpoint: Path, directory: Path, *words: str) -> str:
    """The card of a checkpoint."""
    main(["export", str(checkpoint), str(directory), *words])
    return (directory / "README.md").read_text()


def rows(card: str) -> dict[str, str]:
    """All rows of its tables."""
    return dict(re.findall(r"^\| (.+?) +\| +(.+) \|$", card, flags=re.MULTILINE))


@pytest.mark.parametrize("connection", ["baseline", "dhc"])
def test_the_hub_finds_its_metadata(train, tmp_path, connection):
    card = export(train(connection=connection) / "checkpoints" / "last.ckpt", tmp_path / "exported")
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    assert data.tags == ["image-classification", "timm", *(["hyper-connections"] if connection == "dhc" else [])]
    # the owner's to give; not that of timm's weights of the same architecture either
    assert "license" not in card
    # no start and no example
    assert set(yaml.safe_load(card.split("---")[1])) == {"library_name", "pipeline_tag", "tags", "model-index"}
    (result,) = data.eval_results
    assert data.model_name == "exported"
    assert (result.task_type, result.dataset_name, result.dataset_split) == (
        *("image-classification", "DigitsDataModule", "validation"),
    )
    assert (result.metric_type, str(result.metric_value)) == ("accuracy", rows(card)["val/top1"])
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert (config["pretrained_cfg"]["license"], config["pretrained_cfg"]["tag"]) == (None, None)


def test_the_hub_shows_what_a_model_started_from(train, tmp_path):
    run_dir = train()
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    settings = content["hyper_parameters"]

    def base_model(name: str, **start: object) -> str | None:
        torch.save({**content, "hyper_parameters": {**settings, **start}}, checkpoint)
        return ModelCard(export(checkpoint, tmp_path / name)).data.base_model

    assert base_model("tag", source="test_vit.r160_in1k") == "timm/test_vit.r160_in1k"
    assert base_model("connected", source="test_vit_mhc") == "timm/test_vit.r160_in1k"
    assert base_model("hub", source="hf-hub:somebody/flowers@v2") == "somebody/flowers"
    assert base_model("pretrained", pretrained=True) == "timm/test_vit.r160_in1k"
    assert base_model("directory", source="local-dir:flowers") is None
    assert base_model("checkpoint", source="checkpoint runs/flowers/last.ckpt") is None
    assert base_model("unknown", source="test_vit.mine") is None
    # of weights from a file nobody knows
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["model"]["weights_file"] = "weights.safetensors"
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    assert base_model("file", source="test_vit.r160_in1k") is None


def test_it_says_what_the_run_recorded(train, tmp_path):
    run_dir = train("--seed_everything", "7", "--trainer.gradient_clip_val", "0.5", *EMA, connection="mhc")
    card = export(run_dir / "checkpoints" / "last.ckpt", tmp_path / "exported")
    summary = json.loads((run_dir / "summary.json").read_text())
    expected = {
        "val/top1": str(summary["metrics"]["val/top1"]),
        "val/loss": str(summary["metrics"]["val/loss"]),
        "parameters": str(summary["params"]["total"]),
        "parameters of the connections": str(summary["params"]["connections"]),
        "data": "DigitsDataModule",
        "training images": "1437",
        "classes": "10",
        "mean": "[0.5]",
        "images an optimiser step": "8",
        "max_epochs": "1",
        "gradient_clip_val": "0.5",
        "callbacks": "EMA(decay=0.9)",
        "lr": "0.002",
        "weight_decay": "1.0",
        "optimizer": "adamw",
        "loss": "ce",
        "model_args": '{"patch_size": 4, "dynamic_img_size": false, "depth": 1}',
        "optimiser steps": "3",
        "epochs": "1",
        "seed": "7",
        "device": "cpu",
    }
    found = rows(card)
    assert {key: found[key] for key in expected} == expected
    # what is off or was not given
    assert not {"pretrained", "fixed_pos_embed", "warmup_steps", "max_steps", "precision"} & set(found)
    assert "`test_vit` with mhc hyper-connections, 4 streams, a classifier of 10 classes" in card
    assert "an average over the steps (EMA)" in card
    assert "Command: `mhc-vision train fit --config " in card
    assert f"torch {summary['versions']['torch']}" in card


def test_figures_are_those_of_the_very_weights(train, tmp_path):
    run_dir = train("--trainer.max_epochs", "2", *EMA)
    last = run_dir / "checkpoints" / "last.ckpt"
    of_epoch = [
        record["val/loss"]
        for record in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        if "val/loss" in record
    ]
    assert of_epoch[0] != of_epoch[1]
    assert rows(export(last, tmp_path / "last"))["val/loss"] == str(of_epoch[1])
    # three steps an epoch
    for step, name in ((3, "first"), (4, "unvalidated")):
        torch.save({**torch.load(last, weights_only=True), "global_step": step}, last.with_stem(name))
    assert rows(export(last.with_stem("first"), tmp_path / "first"))["val/loss"] == str(of_epoch[0])
    card = export(last.with_stem("unvalidated"), tmp_path / "unvalidated")
    assert "After 4 optimiser steps, as the run recorded. It recorded no validation of these weights." in card
    assert "val/loss" not in rows(card)
    raw = export(last, tmp_path / "raw", "--weights", "raw")
    assert "It validated the average of the weights, so there are no figures of these." in raw
    assert "val/loss" not in rows(raw)


def test_a_checkpoint_alone_tells_less(train, tmp_path):
    """Of a run that was killed, or moved away from its directory."""
    checkpoint = train() / "checkpoints" / "last.ckpt"
    alone = tmp_path / "alone" / "checkpoints" / "last.ckpt"
    alone.parent.mkdir(parents=True)
    checkpoint.rename(alone)
    card = export(alone, tmp_path / "exported")
    found = rows(card)
    assert "The run has left no summary: it had not ended." in card
    assert "Command" not in card
    assert (found["lr"], found["data"], found["images an optimiser step"]) == ("0.002", "DigitsDataModule", "8")
    assert not {"val/top1", "max_epochs", "device"} & set(found)
    # half a line in the log of a killed run
    (tmp_path / "alone" / "metrics.jsonl").write_text('{"step": 2, "val/top1": 0.5}\n{"step": 2, "val/lo')
    assert rows(export(alone, tmp_path / "again"))["val/top1"] == "0.5"
