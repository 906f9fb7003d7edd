"""The training step on a CPU, at a tiny size."""

import json
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cpu_step.py"


def test_both_models_are_timed(tmp_path, monkeypatch):
    words = ["--model", "test_vit", "--batch-size", "1", "--steps", "1", "--threads", "1", "--sinkhorn-iters", "2"]
    monkeypatch.setattr(sys, "argv", ["cpu_step.py", *words, "--json", str(tmp_path / "step.json")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    (row,) = json.loads((tmp_path / "step.json").read_text())["results"]
    assert (row["model"], row["connection"], row["sinkhorn_iters"]) == ("test_vit", "mhc", 2)
    assert row["plain_ms"] > 0
    assert row["hyper_ms"] > 0
