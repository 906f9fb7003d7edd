"""Every kernel compiles for every GPU on which `auto` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mhc_vision.kernels.backend import ARCHITECTURES

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 8])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles(architecture, n):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--num-streams", str(n), "--targets", architecture]
    rows = [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]
    assert len(rows) == {4: 22, 8: 11}[n]
    assert {row["target"] for row in rows} == {architecture}
