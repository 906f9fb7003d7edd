"""Registers and spills of the Triton kernels, compiled for GPUs that need not be there.

    python benchmarks/kernel_resources.py                    # sm_80, sm_90 and gfx942, n = 4 and 8, bf16
    python benchmarks/kernel_resources.py --dtype fp32 --json resources.json

One line per kernel and architecture: registers and bytes spilled per thread, seconds to compile. The tiles are those
that the launches use; C is a run-time argument of every kernel, so one figure holds for all C, but for the norm in the
boundary, which is compiled for each width of the registered models.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.kernels.checks import MAX_FUSED_STREAMS
from mhc_vision.kernels.triton_kernels import merge, read
from mhc_vision.kernels.triton_kernels.boundary import backward as boundary_backward
from mhc_vision.kernels.triton_kernels.boundary import forward as boundary_forward
from mhc_vision.kernels.triton_kernels.boundary import replay as boundary_replay
from mhc_vision.kernels.triton_kernels.logits import backward as logits_backward
from mhc_vision.kernels.triton_kernels.logits import forward as logits_forward
from mhc_vision.kernels.triton_kernels.logits.launch import GRADIENT_CHANNELS, GRADIENT_TOKENS
from mhc_vision.kernels.triton_kernels.sinkhorn import matrices, vectors
from mhc_vision.kernels.triton_kernels.tiles import tile

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# arguments that are multiples of 16 at every registered width: Triton specialises on that, as a launch would
MULTIPLES_OF_16 = ("dim", "num_rows", "x_token_stride", "x_stream_stride")
FLOATS = {"eps": "fp32"}
WIDTHS = (192, 384, 768, 1024, 1280)
WIDE = {
    "x_ptr",
    "f_ptr",
    "out_ptr",
    "d_out_ptr",
    "d_x_ptr",
    "d_f_ptr",
    "d_tokens_ptr",
    "d_handed_on_ptr",
    "d_merged_ptr",
}


def kernels(n: int, dtype: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, kernel and compile-time arguments of everything that n streams of this dtype need."""
    padded = max(16, triton.next_power_of_2(n * n + 2 * n))
    split = {"PADDED_LOGITS": padded, "SPLIT": dtype != "fp32"}
    streams = {"NUM_STREAMS": n}
    yield from sinkhorn_kernels(n)
    yield "merge", merge.forward_kernel, {**streams, "NUM_RESULTS": n, **tile("merge", n)}
    yield "merge backward", merge.backward_kernel, {**streams, "NUM_RESULTS": n, **tile("merge_backward", n)}
    yield "read", read.forward_kernel, {**streams, "SIGMOID": True, **tile("read", n)}
    reading = {"SIGMOID": True, "WRITE_STREAMS": False, **tile("read_backward", n)}
    yield "read backward", read.backward_kernel, {**streams, **reading}
    yield "logits", logits_forward.forward_kernel, {**streams, **split, **tile("logits", n)}
    applying = {**split, "READ": True, **tile("logits_backward", n)}
    yield "logits backward, streams", logits_backward.streams_backward_kernel, {**streams, **applying}
    fused = n <= MAX_FUSED_STREAMS
    if fused:
        yield from boundary_kernels(n, split)
    summing = {"BLOCK_TOKENS": GRADIENT_TOKENS, "BLOCK_CHANNELS": GRADIENT_CHANNELS, "NUM_PRE": n if fused else 0}
    yield "logits backward, weight", logits_backward.phi_backward_kernel, {**split, **summing, "num_stages": 1}


def sinkhorn_kernels(n: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """On vectors or on matrices."""
    constants = {"NUM_STREAMS": n}
    if n <= MAX_FUSED_STREAMS:
        form, constants["BLOCK_TOKENS"] = vectors, vectors.BLOCK_TOKENS
    else:
        form, constants["BLOCK_TOKENS"], constants["PADDED"] = matrices, matrices.BLOCK_TOKENS, matrices.PADDED
    yield "sinkhorn", form.forward_kernel, constants
    yield "sinkhorn backward", form.backward_kernel, constants


def boundary_kernels(n: int, split: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """With LayerScale and DropPath; at the entry, where the streams are one, without."""
    streams, scaled, bare = {"NUM_STREAMS": n}, {"GAMMA": True, "KEEP": True}, {"GAMMA": False, "KEEP": False}
    merging = {**streams, **split, **tile("boundary", n)}
    yield "boundary, merge", boundary_forward.merge_logits_kernel, {**merging, **scaled}
    yield "boundary, replay", boundary_replay.replay_kernel, {**streams, **scaled, **tile("boundary_replay", n)}
    for dim in WIDTHS:
        norming = {**streams, "DIM": dim, **tile("boundary_norm", n)}
        yield f"boundary, norm, C = {dim}", boundary_forward.read_norm_kernel, norming
    norming = {**streams, **tile("boundary_norm_backward", n)}
    yield "boundary backward, norm", boundary_backward.read_norm_backward_kernel, norming
    applying = {**streams, **split, **tile("boundary_backward", n)}
    yield "boundary backward, merge", boundary_backward.merge_backward_kernel, {**applying, **scaled, "ENTRY": False}
    yield "boundary, merge, entry", boundary_forward.merge_logits_kernel, {**merging, **bare}
    entry = {**applying, **bare, "ENTRY": True}
    yield "boundary backward, merge, entry", boundary_backward.merge_backward_kernel, entry


def compiled(kernel: Any, constants: dict[str, Any], dtype: str, target: GPUTarget) -> Any:
    """The kernel for a target, with the types that its launch would have."""
    names = kernel.arg_names
    options = {"num_warps": 4, **{key: constants[key] for key in ("num_warps", "num_stages") if key in constants}}
    constants = {key: value for key, value in constants.items() if key in names}
    phi = "*fp32" if dtype == "fp32" else "*bf16"
    signature = {}
    for name in names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            of_streams = name in WIDE and kernel.__module__ not in (vectors.__name__, matrices.__name__)
            signature[name] = phi if name == "phi_ptr" else f"*{dtype}" if of_streams else "*fp32"
        else:
            signature[name] = FLOATS.get(name, "i32")
    aligned = [i for i, name in enumerate(names) if name.endswith("_ptr") or name in MULTIPLES_OF_16]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    return triton.compile(source, target=target, options=options)


def resources(binary: Any, target: GPUTarget) -> dict[str, int]:
    """Registers and spilled bytes of a thread."""
    if target.backend == "hip":
        text = binary.asm["amdgcn"]
        registers, spilled = (
            int(re.search(rf"\.{key}:\s*(\d+)", text)[1]) for key in ("vgpr_count", "vgpr_spill_count")
        )
        return {"registers": registers, "spilled_bytes": 4 * spilled}
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK"))
    return {"registers": registers, "spilled_bytes": stack}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-streams", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    arguments = parser.parse_args()
    rows = []
    for n in arguments.num_streams:
        for name, kernel, constants in kernels(n, arguments.dtype):
            for target in arguments.targets:
                start = time.perf_counter()
                binary = compiled(kernel, constants, arguments.dtype, TARGETS[target])
                seconds = time.perf_counter() - start
                row = {"kernel": name, "n": n, "dtype": arguments.dtype, "target": target}
                rows.append({**row, **resources(binary, TARGETS[target]), "compile_s": round(seconds, 1)})
                print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        result = {"command": " ".join(sys.argv), "triton": triton.__version__, "kernels": rows}
        replace_text(arguments.json, json_text(result))


if __name__ == "__main__":
    main()
