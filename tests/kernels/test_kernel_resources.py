"""Every kernel compiles for GPUs that need not be there, without spilled registers at n = 4."""

import json
import re
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
    assert len(rows) == 3 * 21
    assert not [row for row in rows if row["spilled_bytes"]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_all_numbers_of_streams(dtype, tmp_path):
    streams = [str(n) for n in range(1, 9)]
    rows = compiled(
        "--num-streams", *streams, "--dtype", dtype, "--targets", "sm_90", "--json", str(tmp_path / "r.json")
    )
    assert len(rows) == 4 * 21 + 4 * 9
    assert json.loads((tmp_path / "r.json").read_text())["kernels"] == rows


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_what_a_thread_of_sinkhorn_stores_it_loads_itself(target):
    """One number a thread in every tensor: there is one way to lay these out, and no thread holds a copy."""
    script = f"""
import kernel_resources as of
from mhc_vision.kernels.triton_kernels import sinkhorn
target = of.TARGETS["{target}"]
print(of.compiled(sinkhorn.backward_kernel, {{"NUM_STREAMS": 2, **sinkhorn.blocks()}}, "fp32", target).asm["ttgir"])
"""
    code = subprocess.check_output([sys.executable, "-W", "ignore", "-c", script], text=True, cwd=SCRIPT.parent)
    threads = {"sm_90": 32, "gfx942": 64}[target]
    layouts = re.findall(r"#\w+ = (#ttg.*)", code)
    assert layouts == [
        f"#ttg.blocked<{{sizePerThread = [1], threadsPerWarp = [{threads}], warpsPerCTA = [1], order = [0]}}>"
    ]
    assert set(re.findall(r"tensor<(\w+)x", code)) == {str(threads)}
