"""Every kernel compiles for GPUs that need not be there, without spilled registers at n = 4."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"


def compiled(*arguments: str) -> list[dict]:
    output = subprocess.check_output([sys.executable, "-W", "ignore", str(SCRIPT), *arguments], text=True)
    return [json.loads(line) for line in output.splitlines()]


def test_four_streams_on_three_architectures():
    rows = compiled("--num-streams", "4", "--dtype", "bf16")
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "gfx942"}
    assert len(rows) == 3 * 19
    assert not [row for row in rows if row["spilled_bytes"]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_all_numbers_of_streams(dtype, tmp_path):
    streams = [str(n) for n in range(1, 9)]
    rows = compiled(
        "--num-streams", *streams, "--dtype", dtype, "--targets", "sm_90", "--json", str(tmp_path / "r.json")
    )
    assert len(rows) == 4 * 19 + 4 * 9
    assert json.loads((tmp_path / "r.json").read_text())["kernels"] == rows
