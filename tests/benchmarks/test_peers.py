"""The comparison with other implementations checks results before it times, and leaves nobody out in silence."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("triton")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rows_of(run_script, capsys) -> Callable[..., dict[str, dict]]:
    def run(*words: object) -> dict[str, dict]:
        run_script("peers.py", "--dry-run", *words)
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {row["implementation"]: row for row in rows}

    return run


def test_dry_run(rows_of, tmp_path):
    rows = rows_of("--json", tmp_path / "peers.json")
    assert set(rows) == {
        *("ours", "plain PyTorch"),
        *("liger-kernel", "hyper-connections", "tile-kernels", "transformer-engine"),
    }
    for name in ("ours", "plain PyTorch"):
        assert max(rows[name][f"error_{of}"] for of in ("streams", "input", "gradient")) < 1e-5
        # a dry run takes each time once, beside whatever else runs: which is longer says nothing
        assert rows[name]["forward_ms"] > 0
        assert rows[name]["forward_backward_ms"] > 0
    assert rows["ours"]["forward_ratio"] == 1
    for row in rows.values():
        assert "forward_ms" in row or row["skipped"]
    record = json.loads((tmp_path / "peers.json").read_text())
    assert record["rows"] == list(rows.values())
    assert {"date", "command", "device", "torch", "triton", "peers"} <= set(record)


def test_a_peer_with_other_results_is_not_timed(rows_of, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    adapters = importlib.import_module("peer_adapters")

    def wrong(problem):
        prepared = adapters.plain(problem)
        run = prepared.run
        prepared.run = lambda: [1.5 * result for result in run()]
        return prepared

    monkeypatch.setitem(adapters.PEERS, "liger-kernel", wrong)
    row = rows_of("--peers", "liger-kernel")["liger-kernel"]
    assert row["skipped"].startswith("results differ: ")
    assert "forward_ms" not in row
