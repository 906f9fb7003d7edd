"""`mhc-vision profile` on tiny models: what it counts, and that times are there; how long they are is not tested."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from mhc_vision import describe
from mhc_vision.cli import main
from mhc_vision.models.instruments.costs import count_parameters, image_macs
from mhc_vision.models.instruments.steps import Step

QUICK = ("--seconds", "0", "--img-size", "32", "--device", "cpu")


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., dict]:
    """The record that the command writes."""

    def run(*words: object) -> dict:
        main(["profile", *map(str, words), "--out", str(tmp_path / "profile.json")])
        return json.loads((tmp_path / "profile.json").read_text())

    return run


@pytest.mark.parametrize("words", [["test_vit_mhc"], ["test_vit", "--connection", "mhc"], ["test_vit"]])
def test_a_model_is_measured_beside_its_twin(profile, words, capsys):
    record = profile(*words, *QUICK, "--batch-sizes", 1, 3)
    for name, model in (("plain", "test_vit"), ("mhc", "test_vit_mhc")):
        expected = timm.create_model(model, img_size=32)
        costs = record["costs"][name]
        assert costs["parameters"] == count_parameters(expected)
        assert costs["gmacs"] == image_macs(expected, (3, 32, 32)) / 1e9
    assert [(row["batch_size"], row["model"]) for row in record["rows"]] == [
        *((size, model) for size in (1, 3) for model in ("plain", "mhc")),
    ]
    for row in record["rows"]:
        assert row["images_per_s"] == pytest.approx(row["batch_size"] / (1e-3 * row["ms"]))
        assert row["memory_bytes"] > 4 * record["costs"][row["model"]]["parameters"]["total"]
        if row["model"] == "plain":
            assert (row["time_ratio"], row["memory_ratio"]) == (1, 1)
    assert record["settings"]["mode"] == "inference"
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert {"torch", "timm", "mhc_vision"} <= set(record["versions"])
    printed = capsys.readouterr().out
    assert f"{record['costs']['mhc']['parameters']['total']:,}" in printed
    assert "| batch | model |" in printed
    assert f"{torch.get_num_threads()} threads" in printed
    assert record["path"] == describe(timm.create_model("test_vit_mhc", img_size=32))
    assert record["path"] in printed


def test_a_residual_design_is_a_twin_too(profile):
    record = profile("test_vit", "--connection", "mudd", *QUICK, "--batch-sizes", 1)
    plain, mudd = record["costs"]["plain"], record["costs"]["mudd"]
    assert mudd["parameters"]["total"] == plain["parameters"]["total"] + mudd["parameters"]["connections"]
    assert mudd["gmacs"] > plain["gmacs"]
    assert [row["model"] for row in record["rows"]] == ["plain", "mudd"]


def test_training_of_a_checkpoint(profile, train):
    run_dir = train(connection="dhc")
    options = ("--seconds", "0", "--device", "cpu", "--precision", "bf16", "--train", "--batch-sizes", "2")
    record = profile(run_dir / "checkpoints" / "last.ckpt", *options)
    assert (record["settings"]["mode"], record["settings"]["img_size"]) == ("training", 8)
    assert list(record["costs"]) == ["plain", "dhc"]
    # weights, gradients and two moments
    for row in record["rows"]:
        assert row["memory_bytes"] > 4 * 4 * record["costs"][row["model"]]["parameters"]["total"]


def test_what_does_not_fit_ends_the_measurement(profile, tmp_path, monkeypatch, capsys):
    call = Step.__call__

    def limited(step: Step) -> None:
        if len(step.images) > 1:
            raise torch.OutOfMemoryError
        call(step)

    monkeypatch.setattr(Step, "__call__", limited)
    with pytest.raises(SystemExit) as stopped:
        profile("test_vit_mhc", *QUICK, "--batch-sizes", 1, 2, 4)
    assert stopped.value.code == 2
    assert "batch_sizes: got 2, which does not fit on the GPU" in capsys.readouterr().err
    record = json.loads((tmp_path / "profile.json").read_text())
    assert {row["batch_size"] for row in record["rows"]} == {1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test_vit_mch"], "nearest: test_vit"),
        (["test_vit", "--connection", "mch"], "invalid choice: 'mch'"),
        (["test_vit_mhc", "--connection", "dhc"], "connection: got 'dhc' for test_vit_mhc, which has 'mhc'"),
        (["test_vit_mhc", "--num-streams", "2"], "num_streams: got 2 for test_vit_mhc, which has 4"),
        (["test_vit", "--batch-sizes", "0"], "batch_sizes: got 0, expected a whole number from 1"),
        (["test_vit", "--img-size", "20"], "img_size: got 20"),
        (["test_vit", "--device", "cuda:99"], "device: got 'cuda:99', expected one that torch can use"),
        (["test_vit", "--seconds", "-1"], "seconds: got -1.0, expected a finite number at least 0"),
        (["resnet18"], "model: got ResNet, expected one of timm's VisionTransformer"),
        (["test_vit", "--out", "."], "out: got ., a directory, expected a file"),
    ],
)
def test_mistakes_are_named(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["profile", *words])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
