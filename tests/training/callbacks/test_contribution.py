"""`val/contribution`: what the maps contribute, beside the validation loss, without touching the run."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from mhc_vision.data.digits import load_digits_split
from mhc_vision.inference.load_model import load_model
from mhc_vision.layers import named_connections
from mhc_vision.training.callbacks.contribution import MapContribution

MOVING = ["--model.connection_lr_scale", "100", "--model.warmup_epochs", "0", "--model.lr", "0.01"]
MOVING += ["--trainer.limit_val_batches", "1.0"]
# logits of batches of another size: fp32 sums in another order, of maps that have moved far
ROUNDING = 1e-5


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def lines(run_dir: Path) -> list[dict]:
    logged = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in logged if "val/contribution" in line]


def by_hand(run_dir: Path) -> tuple[float, float]:
    """Mean difference of the losses over all images and its standard error, from the last checkpoint."""
    images, labels = load_digits_split()[1].tensors
    model = load_model(str(run_dir / "checkpoints" / "last.ckpt"), needs_rgb_classes=False).model
    plain = copy.deepcopy(model)
    for connection in named_connections(plain).values():
        connection.reset_parameters()
    with torch.no_grad():
        loss, of_plain = (
            torch.nn.functional.cross_entropy(network((images / 255 - 0.5) / 0.5), labels, reduction="none")
            for network in (model, plain)
        )
    difference = of_plain - loss
    return difference.mean().item(), difference.std().item() / math.sqrt(len(labels))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="in-the-last-validation"),
        pytest.param(["--trainer.callbacks+=EMA", "--trainer.callbacks.decay", "0.5"], id="ema"),
        # the third step comes after the last validation
        pytest.param(["--trainer.val_check_interval", "2"], id="after-the-last-validation"),
    ],
)
def test_it_is_the_difference_of_two_evaluations(train, capsys, words):
    run_dir = train(*MOVING, *words, connection="mhc")
    metrics, (value, error) = summary(run_dir)["metrics"], by_hand(run_dir)
    assert abs(value) > 1e-3
    assert metrics["val/contribution"] == pytest.approx(value, abs=ROUNDING)
    assert metrics["val/contribution_se"] == pytest.approx(error, abs=ROUNDING)
    (line,) = lines(run_dir)
    assert (line["step"], line["val/contribution"]) == (2, pytest.approx(value, abs=ROUNDING))
    assert (
        f"validation loss with the maps set back to their start: {value:+.4f} ± {error:.4f}" in capsys.readouterr().out
    )


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_maps_at_their_start_contribute_nothing(train, connection, capsys):
    run_dir = train("--model.connection_lr_scale", "1e-9", connection=connection)
    # a step of 1e-12 moves no map in fp32
    assert abs(summary(run_dir)["metrics"]["val/contribution"]) <= 1e-6
    assert "a plain model at a higher price" in capsys.readouterr().out


def test_measuring_changes_no_bit_of_the_run(train, tmp_path):
    every = ["--trainer.callbacks+=MapContribution", "--trainer.callbacks.every_validation"]
    words = [*MOVING, "--trainer.max_epochs", "2", "--model.model_args.drop_path_rate", "0.3"]
    runs = [
        train(*words, *every, measured, connection="mhc", run_dir=tmp_path / measured) for measured in ("true", "false")
    ]
    assert [len(lines(run)) for run in runs] == [2, 1]
    assert lines(runs[0])[-1]["val/contribution"] == lines(runs[1])[-1]["val/contribution"]
    often, once = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs)
    for name, value in often["state_dict"].items():
        assert torch.equal(value, once["state_dict"][name]), name
    for key in ("val/loss", "val/top1"):
        assert summary(runs[0])["metrics"][key] == summary(runs[1])["metrics"][key]


def test_a_plain_model_and_a_run_without_validation_have_none(train, tmp_path, capsys):
    for words, connection in (([], "baseline"), (["--trainer.limit_val_batches", "0"], "mhc")):
        run_dir = train(*words, connection=connection, run_dir=tmp_path / connection)
        assert "val/contribution" not in summary(run_dir)["metrics"]
    assert "set back" not in capsys.readouterr().out


def test_an_average_that_comes_too_late_is_refused(train, capsys):
    with pytest.raises(SystemExit, match="2"):
        train("--trainer.callbacks+=MapContribution", "--trainer.callbacks+=EMA", connection="mhc")
    assert "got MapContribution before EMA, expected it after EMA" in capsys.readouterr().err


def test_a_bad_option_is_named():
    with pytest.raises(ValueError, match="every_validation: got 1, expected true or false"):
        MapContribution(every_validation=1)  # type: ignore[arg-type]


def test_the_last_step_of_a_run_is_measured_on_the_weights_it_ends_with(train):
    # validation after each epoch of three steps, and an end in between
    run_dir = train(*MOVING, "--trainer.max_epochs", "-1", "--trainer.max_steps", "4", connection="mhc")
    record = summary(run_dir)
    assert (record["steps"], record["validated_at_step"]) == (4, 3)
    assert record["metrics"]["val/contribution"] == pytest.approx(by_hand(run_dir)[0], abs=ROUNDING)
