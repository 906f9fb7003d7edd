"""The boundary moves the bytes that its plan allows, counted in Triton's interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "traffic.py"


@pytest.mark.parametrize(("stream_dtype", "forward", "most"), [("bfloat16", 10, 33), ("float32", 18, 58)])
def test_boundary_at_most_33_units_of_c_and_nearly_twice_as_many_for_fp32_streams(
    stream_dtype, forward, most, tmp_path
):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--dims", "192", "--num-tokens", "64"]
    command += ["--stream-dtype", stream_dtype]
    subprocess.run([*command, "--json", str(tmp_path / "traffic.json")], check=True, capture_output=True)
    rows = json.loads((tmp_path / "traffic.json").read_text())["rows"]
    moved = {
        name: sum(row["loads"] + row["stores"] for row in rows if row["pass"] == name)
        for name in ("forward", "backward")
    }
    # X and f in, X' out and what it reads to y: 10 C and the side data; all but f twice as wide in fp32
    assert forward < moved["forward"] < forward + 1
    assert sum(moved.values()) <= most
    # X' once, and X, f and dy once
    assert sum(row["again"] for row in rows) <= (11 if stream_dtype == "bfloat16" else 21)
