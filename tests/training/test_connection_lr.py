import json

import pytest
import timm
import torch

from mhc_vision.training.connection_lr import BUDGET, HIGHEST, LOWEST, connection_lr_scale
from mhc_vision.training.module import ClassificationModule
from mhc_vision.training.schedule import warmup_cosine_factor, warmup_cosine_sum


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 1), (0, 7), (3, 3), (4, 24), (100, 1500)])
@pytest.mark.parametrize("final_factor", [0.0, 0.1, 1.0])
def test_the_sum_of_a_schedule_is_that_of_its_steps(warmup_steps, total_steps, final_factor):
    schedule = {"warmup_steps": warmup_steps, "total_steps": total_steps, "final_factor": final_factor}
    factors = [warmup_cosine_factor(step, **schedule) for step in range(total_steps)]
    assert warmup_cosine_sum(**schedule) == pytest.approx(sum(factors), rel=1e-12)


@pytest.fixture(scope="module")
def connected():
    return timm.create_model("test_vit_mhc", depth=1)


@pytest.mark.parametrize("steps", [250, 500, 1500])
def test_auto_lets_maps_travel_equally_far_in_runs_of_any_length(steps, connected):
    lr_sum = 1e-3 * warmup_cosine_sum(warmup_steps=100, total_steps=steps)
    assert connection_lr_scale("auto", lr_sum, connected) * lr_sum == pytest.approx(BUDGET)


def test_auto_stays_within_its_limits(connected):
    shortest = connection_lr_scale("auto", 1e-6, connected)
    assert shortest == connection_lr_scale("auto", 0.0, connected) == HIGHEST
    assert connection_lr_scale("auto", 1e6, connected) == LOWEST


@pytest.mark.parametrize("design", ["mudd", "attn_res"])
def test_auto_leaves_what_is_no_hyper_connection_at_the_rate_of_the_model(design):
    module = ClassificationModule("test_vit", 5, connection=design, model_args={"depth": 2})
    assert connection_lr_scale("auto", 1e-6, module.model) == 1.0
    assert connection_lr_scale(30.0, 1e-6, module.model) == 30.0


def test_a_number_is_taken_as_it_is(connected):
    assert connection_lr_scale(100.0, 1e6, connected) == 100.0


@pytest.mark.parametrize("connection", ["shc", "dhc", "mhc"])
def test_a_run_says_what_auto_has_chosen(train, connection, caplog):
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    run_dir = train("--model.connection_lr_scale", "auto", "--trainer.limit_train_batches", "6", connection=connection)
    summary = json.loads((run_dir / "summary.json").read_text())
    log = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    # so short a run is beyond the limit
    peak = max(line["train/lr"] for line in log if "train/lr" in line)
    assert max(line["train/lr_static"] for line in log if "train/lr" in line) == pytest.approx(HIGHEST * peak)
    kinds = {"static"} if connection == "shc" else {"static", "dynamic"}
    assert summary["connection_lr"].keys() == kinds
    assert summary["connection_lr"]["static"] == pytest.approx(HIGHEST * _lr(run_dir))
    assert "connections learn at 30 times the model's rate (connection_lr_scale: auto)" in caplog.messages


def test_a_plain_model_has_no_rates_of_connections(train):
    run_dir = train("--model.connection_lr_scale", "auto")
    assert "connection_lr" not in json.loads((run_dir / "summary.json").read_text())
    assert "train/lr_static" not in (run_dir / "metrics.jsonl").read_text()


def _lr(run_dir) -> float:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]["lr"]


@pytest.mark.parametrize("scale", ["fast", 0.0, -1.0, float("nan"), True])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="connection_lr_scale: got"):
        ClassificationModule("test_vit", 5, connection_lr_scale=scale)
