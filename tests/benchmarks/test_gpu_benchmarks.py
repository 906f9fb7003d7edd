"""The benchmarks for a GPU run without one at a tiny size, and count what they say they count."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    # the scripts set it when they are imported
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return importlib.import_module


@pytest.fixture
def dry_run(run_script, capsys) -> Callable[[str, Path], list[dict]]:
    def run(script: str, path: Path) -> list[dict]:
        run_script(script, "--dry-run", "--json", path)
        record = json.loads(path.read_text())
        assert record["rows"] == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {"date", "command", "device", "torch", "triton", "mhc_vision"} <= set(record)
        return record["rows"]

    return run


def test_kernels(dry_run, tmp_path):
    rows = dry_run("kernels.py", tmp_path / "kernels.json")
    ops = ("sinkhorn_knopp", "stream_coefficients", "read_streams", "merge_streams", "branch_input", "boundary")
    assert {(row["op"], row["pass"]) for row in rows} == {(op, way) for op in ops for way in ("forward", "backward")}
    assert all(row["ms"] > 0 and row["bytes"] > 0 for row in rows)


def test_a_profile_begins_when_all_is_compiled(benchmark, monkeypatch):
    kernels, done = benchmark("kernels"), []
    monkeypatch.setattr(kernels, "cases", lambda *shape: {"boundary": (None, None, [])})
    monkeypatch.setattr(kernels, "passes", lambda *op: [lambda way=way: done.append(way) for way in ("there", "back")])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for mark in ("start", "stop"):
        monkeypatch.setattr(torch.cuda.profiler, mark, lambda mark=mark: done.append(mark))
    kernels.profile(4, 64, "cuda")
    assert done == ["there", "back", "start", "there", "back", "stop"]


def test_bytes_of_the_boundary(benchmark):
    bytes_moved = benchmark("kernels").bytes_moved
    # what `traffic.py` counts
    for dim, moved in ((192, (10.8, 21.5)), (768, (10.2, 20.4))):
        forward, backward = (bytes_moved("boundary", way, 1, dim) / (2 * dim) for way in (False, True))
        assert (forward, backward) == pytest.approx(moved, abs=0.05)


def test_model_step(dry_run, tmp_path):
    rows = dry_run("model_step.py", tmp_path / "model_step.json")
    names = ("plain", "shc-4", "dhc-4", "mhc-2", "mhc-4")
    assert {(row["connection"], row["mode"]) for row in rows} == {
        (name, mode) for name in names for mode in ("training", "inference")
    }
    assert all(row["ratio_to_plain"] == 1 for row in rows if row["connection"] == "plain")
    assert all(("hyper-connected blocks" in row["path"]) == (row["connection"] == "plain") for row in rows)
    assert all(row["images_per_s"] > 0 for row in rows)
    assert {(row["precision"], row["batch_size"]) for row in rows} == {("bf16", 2)}


def test_share_of_the_peak(benchmark):
    model_step = benchmark("model_step")
    assert model_step.mfu(5e12, 100.0, 1e14) == pytest.approx(0.5)
    assert model_step.mfu(5e12, 100.0, None) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", ["kernels.py", "model_step.py", "peers.py"])
def test_no_gpu_is_said(script, run_script, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_script(script)
    assert stopped.value.code == 2
    assert "there is no GPU to time on; --dry-run runs everything at a tiny size" in capsys.readouterr().err
