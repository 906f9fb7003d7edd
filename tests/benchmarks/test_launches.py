"""What a training step asks of the CPU, counted in a process of its own: Triton is not interpreted there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "launches.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    path = tmp_path_factory.mktemp("launches") / "rows.json"
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--repeats", "2", "--json", str(path)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    record = json.loads(path.read_text())
    assert record["rows"] == [json.loads(line) for line in printed.splitlines()]
    return record["rows"]


def test_a_boundary(rows):
    boundaries = [row for row in rows if row["of"] == "boundary"]
    assert [row["dtype"] for row in boundaries] == ["bfloat16", "float32"]
    for row in boundaries:
        assert row["num_launches"] == sum(row["launches"].values()) == 3
        # partial sums, and once more those of the scale; LayerScale
        assert row["ops"] == {"sum": row["num_ops"]} == {"sum": 3}
        assert row["forward_us"] > 0
        assert row["backward_us"] > 0


def test_a_step_launches_once_for_all_and_a_few_times_for_each_boundary(rows):
    *_, step = rows
    assert (step["of"], step["depth"]) == ("step", 12)
    assert step["num_launches"] == sum(step["launches"].values()) <= 90
    # the first logits; one boundary in each of the 12 blocks, and one between every two
    assert step["launches"]["sums_backward_kernel"] == 2 * 12
    # what boundaries add, they save of residual additions and norms
    assert 0 < step["num_ops"] - step["num_ops_of_plain"] <= 2 * 12 - 1
