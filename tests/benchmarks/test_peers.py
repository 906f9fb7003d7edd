"""The comparison with other implementations checks results before it times, and leaves nobody out in silence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "peers.py"

WRONG_PEER = """
import sys
sys.argv = ["peers.py", "--dry-run", "--peers", "liger-kernel"]
import peer_adapters, peers

def wrong(problem):
    prepared = peer_adapters.plain(problem)
    run = prepared.run
    prepared.run = lambda: [1.5 * result for result in run()]
    return prepared

peer_adapters.PEERS["liger-kernel"] = wrong
peers.main()
"""


def rows_of(command: list[str], **options) -> dict[str, dict]:
    output = subprocess.check_output([sys.executable, "-W", "ignore", *command], text=True, **options)
    rows = [json.loads(line) for line in output.splitlines()]
    return {row["implementation"]: row for row in rows}


def test_dry_run(tmp_path):
    rows = rows_of([str(SCRIPT), "--dry-run", "--json", str(tmp_path / "peers.json")])
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


def test_a_peer_with_other_results_is_not_timed():
    row = rows_of(["-c", WRONG_PEER], cwd=BENCHMARKS)["liger-kernel"]
    assert row["skipped"].startswith("results differ: ")
    assert "forward_ms" not in row
