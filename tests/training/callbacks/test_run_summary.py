import json

import pytest

from mhc_vision.training.callbacks.run_summary import steady_median


def test_a_summary_says_what_a_run_took(train):
    run_dir = train("--seed_everything", "7", connection="mhc")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["seed"] == 7
    assert summary["device"] == "cpu"
    assert summary["num_processes"] == 1
    # C = 64, MLP ratio 3, four patches of 4 x 4 and a class token: embedding, head, one block with attention, and two
    # connections with n = 4
    plain = 4 * 4 * 4 * 64 + 64 * 10 + 5 * (3 + 1 + 2 * 3) * 64 * 64 + 2 * 5 * 5 * 64
    connections = 2 * 5 * (24 * 4 * 64 + (4 + 16 + 4) * 64)
    assert summary["gmacs"] == pytest.approx((plain + connections) / 1e9, abs=1e-9)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rates = [line["perf/images_per_s"] for line in lines if "perf/images_per_s" in line]
    assert summary["images_per_s"] == pytest.approx(sum(rates[1:]) / 2, rel=1e-4)
    # of a process that has loaded PyTorch
    assert 0.1 < summary["peak_memory_gib"] < 100


def test_a_run_that_logs_no_rate_has_none(train):
    summary = json.loads((train("--trainer.log_every_n_steps", "50") / "summary.json").read_text())
    assert summary["images_per_s"] is None


def test_the_start_is_left_out_of_the_median():
    assert steady_median([5.0]) == 5.0
    assert steady_median([1.0, 9.0]) == 9.0
    assert steady_median([0.0] * 2 + [10.0] * 9 + [20.0] * 9) == 15.0
