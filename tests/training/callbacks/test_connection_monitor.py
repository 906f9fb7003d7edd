import json
import math

import pytest
import torch

from mhc_vision.layers import ManifoldHyperConnection
from mhc_vision.training.callbacks.connection_monitor import ConnectionMonitor


def figures(run_dir) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "gain/composite_forward" in line]


WORDS = ["--trainer.callbacks+=ConnectionMonitor", "--trainer.callbacks.every_n_steps", "2"]
WORDS += ["--trainer.limit_train_batches", "6", "--model.connection_lr_scale", "10"]


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_gains_and_travel_of_every_branch(train, connection):
    lines = figures(train(*WORDS, connection=connection))
    assert [line["step"] for line in lines] == [1, 3, 5]
    last = lines[-1]
    for branch in ("00", "01"):
        assert last[f"gain/forward/{branch}"] == pytest.approx(1, abs=0.5)
        assert (f"gain/column_error/{branch}" in last) == (connection == "mhc")
    if connection == "mhc":
        # rows of Sinkhorn-Knopp sum to one, those of their products too
        assert last["gain/composite_forward"] == pytest.approx(1, abs=1e-5)
        assert 0 <= last["gain/column_error/01"] < 0.1
    for field in ("pre", "post", "res"):
        travelled = [line[f"travel/{field}"] for line in lines]
        assert 0 < travelled[0] < travelled[-1]
    assert 1 < last["streams/effective_rank"] <= 4
    assert 0.25 <= last["streams/dominant_share"] < 1
    # two branches at the start of the model
    start = math.exp(ManifoldHyperConnection(8).res_init)
    expected = (1 - 4 * start / (1 + 3 * start)) ** 2 if connection == "mhc" else 1
    assert last["streams/memory"] == pytest.approx(expected, abs=0.2)


def test_the_last_step_is_looked_at_in_any_case(train):
    words = ["--trainer.max_epochs", "-1", "--trainer.max_steps", "5"]
    assert [line["step"] for line in figures(train(*words, connection="mhc"))] == [4]


def test_one_stream_has_nothing_to_compare(train):
    (line,) = figures(train("--model.num_streams", "1", connection="mhc"))
    assert not any(key.startswith("streams/") for key in line)


def test_a_plain_model_logs_nothing(train):
    assert figures(train(*WORDS)) == []


def test_looking_changes_no_bit_of_the_run(train, tmp_path):
    options = ["--model.model_args.drop_path_rate", "0.3"]
    runs = [
        train(*WORDS, "--trainer.callbacks.every_n_steps", every, *options, connection="mhc", run_dir=tmp_path / every)
        for every in ("1", "100")
    ]
    watched, unwatched = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs)
    for name, value in watched["state_dict"].items():
        assert torch.equal(value, unwatched["state_dict"][name]), name


@pytest.mark.parametrize("name", ["every_n_steps", "num_images"])
def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match=f"{name}: got 0, expected a whole number from 1"):
        ConnectionMonitor(**{name: 0})
