"""The boundary moves the bytes that its plan allows, counted in Triton's interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "traffic.py"


def test_boundary_at_most_41_units_of_c(tmp_path):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--dims", "192", "--num-tokens", "64"]
    subprocess.run([*command, "--json", str(tmp_path / "traffic.json")], check=True, capture_output=True)
    rows = json.loads((tmp_path / "traffic.json").read_text())["rows"]
    moved = {
        name: sum(row["loads"] + row["stores"] for row in rows if row["pass"] == name)
        for name in ("forward", "backward")
    }
    # X and f in, X' out, X' and what it reads to y: 14 C and the side data
    assert 14 < moved["forward"] < 15
    assert sum(moved.values()) <= 41
