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
    assert len(rows) == 3 * 22
    assert not [row for row in rows if row["spilled_bytes"]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_all_numbers_of_streams(dtype, tmp_path):
    streams = [str(n) for n in range(1, 9)]
    rows = compiled(
        "--num-streams", *streams, "--dtype", dtype, "--targets", "sm_90", "--json", str(tmp_path / "r.json")
    )
    assert len(rows) == 4 * 22 + 4 * 11
    assert json.loads((tmp_path / "r.json").read_text())["kernels"] == rows


@pytest.mark.parametrize(("target", "warp"), [("sm_90", 32), ("gfx942", 64)])
def test_what_a_thread_of_sinkhorn_stores_it_loads_itself(target, warp):
    """One number a thread, and each in one thread alone: there is one way to lay out the matrices of a program."""
    script = f"""
import kernel_resources as of
for name, kernel, constants in of.kernels(2, "bf16"):
    if name in ("sinkhorn backward", "boundary backward, sums"):
        print(constants["num_warps"], of.compiled(kernel, constants, "bf16", of.TARGETS["{target}"]).asm["ttgir"])
"""
    code = subprocess.check_output([sys.executable, "-W", "ignore", "-c", script], text=True, cwd=SCRIPT.parent)
    kernels = re.findall(r"^(\d) (.*?)(?=^\d |\Z)", code, re.M | re.S)
    assert [int(warps) for warps, _ in kernels] == [1, 4]
    for warps, text in kernels:
        layouts = dict(re.findall(r"(#\w+) = #ttg.blocked<(.*)>", text))
        used = re.findall(rf"tt\.(?:load|store) .*tensor<{warp * int(warps)}x!tt.ptr<f32>, (#\w+)>", text)
        assert len(used) > 4 * 3
        expected = f"{{sizePerThread = [1], threadsPerWarp = [{warp}], warpsPerCTA = [{warps}], order = [0]}}"
        assert {layouts[layout] for layout in used} == {expected}
