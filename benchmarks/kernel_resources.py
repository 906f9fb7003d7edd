"""Registers and spills of the Triton kernels, compiled for GPUs that need not be there.

    python benchmarks/kernel_resources.py                    # sm_80, sm_90 and gfx942, n = 4 and 8, bf16
    python benchmarks/kernel_resources.py --dtype fp32 --json resources.json
    python benchmarks/kernel_resources.py --budget           # the boundary's machine code, against its limits
    python benchmarks/kernel_resources.py --kernels boundary --targets sm_90 --code directory

One line per kernel and architecture: registers and bytes spilled per thread, seconds to compile. The tiles are those
that the launches use; C is a run-time argument of every kernel, so one figure holds for all C that are multiples of 32.

With `--budget`, for bf16 and fp32 streams on sm_80 and sm_90, one line per kernel and C: registers, stack and shared
memory; instructions per token, of warps; barriers per chunk of channels; conversions of single numbers; bits of the
narrowest load or store of streams; accesses to spills (`machine_code.py` says how they are counted). The exit status is
1 where a limit of `code_budget.yaml` is exceeded.

With `--code`, PTX and machine code are written to files.

Another version of Triton, unpacked beside the installed one, serves as well:

    pip install --no-deps --target /tmp/triton36 "triton==3.6.*"
    PYTHONPATH=/tmp/triton36 python benchmarks/kernel_resources.py --budget
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import machine_code
import torch
import triton
import yaml
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import mhc_vision
from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.kernels.checks import MAX_FUSED_STREAMS
from mhc_vision.kernels.prepared_phi import padded_size
from mhc_vision.kernels.triton_kernels import merge, sinkhorn
from mhc_vision.kernels.triton_kernels.boundary import backward as boundary_backward
from mhc_vision.kernels.triton_kernels.boundary import forward as boundary_forward
from mhc_vision.kernels.triton_kernels.boundary import sums as boundary_sums
from mhc_vision.kernels.triton_kernels.tiles import in_thread, num_threads, tile, token_splits

NVIDIA, AMD = (
    ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "sm_121"),
    ("gfx942", "gfx950"),
)
TARGETS = {name: GPUTarget("cuda", int(name[3:]), 32) for name in NVIDIA} | {
    name: GPUTarget("hip", name, 64) for name in AMD
}
DEFAULT_TARGETS = ["sm_80", "sm_90", "gfx942"]
# arguments that are multiples of 16 at every registered width: Triton specialises on that, as a launch would
MULTIPLES_OF_16 = ("dim", "x_token_stride", "x_stream_stride")
# arguments that a kernel may go without
UNSCALED: dict[str, Any] = {"gamma_ptr": None, "keep_ptr": None}
NOTHING_MERGED: dict[str, Any] = dict.fromkeys(
    ("f_ptr", "logits_ptr", "maps_ptr", "out_ptr", "d_f_ptr", "d_maps_ptr", "d_gamma_ptr")
)
NOTHING_NORMED: dict[str, Any] = dict.fromkeys(("norm_weight_ptr", "norm_bias_ptr"))
FLOATS = {"eps": "fp32", "norm_eps": "fp32"}
# a batch of 128 images of 14 x 14 patches: M of what is counted per token
NUM_TOKENS = 128 * 196
PACKAGE = Path(mhc_vision.__file__).parent
BUDGET = yaml.safe_load((Path(__file__).parent / "code_budget.yaml").read_text())
WIDE = {
    "x_ptr",
    "f_ptr",
    "out_ptr",
    "d_out_ptr",
    "d_x_ptr",
    "d_f_ptr",
    "d_merged_ptr",
    "normed_ptr",
    "d_normed_ptr",
}
# as `triton_kernels.precision` chooses them on a GPU of NVIDIA
PRECISIONS = {"bf16": "native", "fp16": "tf32", "fp32": "tf32x3"}
FENCES = {"bf16": 2, "fp16": 2, "fp32": 1}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def kernels(n: int, dtype: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, kernel and compile-time arguments of everything that n streams of this dtype need."""
    padded = max(16, triton.next_power_of_2(n * n + 2 * n))
    split = {"PADDED_LOGITS": padded, "SPLIT": dtype != "fp32", "PRECISION": PRECISIONS[dtype]}
    streams = {"NUM_STREAMS": n}
    yield "sinkhorn", sinkhorn.forward_kernel, {**streams, **sinkhorn.blocks()}
    yield "sinkhorn backward", sinkhorn.backward_kernel, {**streams, **sinkhorn.blocks()}
    merging = {**streams, "NUM_RESULTS": n, **tile("merge", n)}
    yield "merge", merge.forward_kernel, {**merging, **UNSCALED}
    taking_back = {**streams, "NUM_RESULTS": n, **tile("merge_backward", n)}
    yield "merge backward", merge.backward_kernel, taking_back
    reading = {"NUM_RESULTS": 1, "f_ptr": None, "post_ptr": None, "d_f_ptr": None, "d_post_ptr": None}
    yield "read", merge.forward_kernel, {**merging, **UNSCALED, **reading}
    yield "read backward", merge.backward_kernel, {**taking_back, **reading}
    yield "add output", merge.forward_kernel, {**merging, **UNSCALED, "res_ptr": None}
    yield "add output backward", merge.backward_kernel, {**taking_back, "res_ptr": None}
    yield from boundary_kernels(n, dtype, split)


def boundary_kernels(n: int, dtype: str, split: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """As in a plain ViT; with equal streams, at the entry; with LayerScale and DropPath, with res = I, or RMS norm.

    Before, the branch input, which merges and norms nothing.
    """
    streams, scaled = {"NUM_STREAMS": n}, {"MIX": True}
    bare = {**scaled, **UNSCALED}
    adding = {**bare, "MIX": False}
    reading = {**adding, "NORM": "none", "ENTRY": False, **NOTHING_MERGED, **NOTHING_NORMED}
    multiplying = {**streams, **split, "PADDED_STREAMS": padded_size(n), "MASKED": False, "FENCE": FENCES[dtype]}
    multiplying["NORM"], rms = "layer", {"NORM": "rms", "norm_bias_ptr": None}
    forward, applying = (tile(name, n, DTYPES[dtype]) for name in ("boundary", "boundary_streams_backward"))
    merging = {**multiplying, **forward, "IN_THREAD": in_thread(forward)}
    applying = {**multiplying, **applying, "IN_THREAD": in_thread(applying)}
    summing = tile("boundary_sums_backward", n)
    summing = {**multiplying, **summing, "BLOCK_MATRICES": num_threads(summing["num_warps"])}
    kernel = boundary_backward.streams_backward_kernel
    yield "branch input", boundary_forward.forward_kernel, {**merging, **reading}
    yield "branch input backward, streams", kernel, {**applying, **reading}
    summing_alone = {**summing, **reading, "d_normed_ptr": None}
    yield "branch input backward, sums", boundary_sums.sums_backward_kernel, summing_alone
    if n > MAX_FUSED_STREAMS:
        return
    yield "boundary", boundary_forward.forward_kernel, {**merging, **bare}
    yield "boundary, scaled", boundary_forward.forward_kernel, {**merging, **scaled}
    yield "boundary, identity", boundary_forward.forward_kernel, {**merging, **adding}
    yield "boundary, rms", boundary_forward.forward_kernel, {**merging, **bare, **rms}
    yield "boundary, replay", merge.forward_kernel, {**streams, "NUM_RESULTS": n, **scaled, **tile("merge", n)}
    yield "boundary backward, streams", kernel, {**applying, **bare, "ENTRY": False}
    yield "boundary backward, streams, scaled", kernel, {**applying, **scaled, "ENTRY": False}
    yield "boundary backward, streams, identity", kernel, {**applying, **adding, "ENTRY": False}
    yield "boundary backward, streams, rms", kernel, {**applying, **bare, **rms, "ENTRY": False}
    yield "boundary backward, streams, entry", kernel, {**applying, **bare, "ENTRY": True}
    yield "boundary backward, sums", boundary_sums.sums_backward_kernel, summing


def of_streams(kernel: Any, argument: str) -> bool:
    """Whether an argument of a kernel points to streams or to other vectors of C, in their dtype."""
    return argument in WIDE and kernel.__module__ != sinkhorn.__name__


def compiled(kernel: Any, constants: dict[str, Any], dtype: str, target: GPUTarget) -> Any:
    """The kernel for a target, with the types that its launch would have."""
    if target.backend == "hip":
        constants = {**constants, "FENCE": 0, "PRECISION": "native" if dtype == "bf16" else "ieee"}
    if "BLOCK_MATRICES" in constants:
        # one for each thread
        constants = {**constants, "BLOCK_MATRICES": constants.get("num_warps", 4) * target.warp_size}
    names = kernel.arg_names
    options = {"num_warps": 4, **{key: constants[key] for key in ("num_warps", "num_stages") if key in constants}}
    constants = {key: value for key, value in constants.items() if key in names}
    phi = "*fp32" if dtype == "fp32" else "*bf16"
    signature = {}
    for name in names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = phi if name == "phi_ptr" else f"*{dtype}" if of_streams(kernel, name) else "*fp32"
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
    registers, stack = machine_code.read_registers(binary.asm["cubin"])
    return {"registers": registers, "spilled_bytes": stack}


def budget_row(name: str, kernel: Any, constants: dict[str, Any], dtype: str, target: str, dim: int) -> dict[str, Any]:
    """What the machine code of a kernel does at C = `dim`."""
    binary = compiled(kernel, constants, dtype, TARGETS[target])
    arguments = [argument for argument in kernel.arg_names if argument not in constants]
    registers, stack = machine_code.read_registers(binary.asm["cubin"])
    sass = machine_code.disassemble(binary.asm["cubin"])
    counts = [
        machine_code.count(sass, sizes, PACKAGE, constants.get("num_warps", 4), NUM_TOKENS)
        for sizes in launch_sizes(kernel, constants, dim)
    ]
    streams = {argument for argument in arguments if of_streams(kernel, argument)}
    return {
        "kernel": name,
        "function": kernel.fn.__name__,
        "warps": constants.get("num_warps", 4),
        "tokens": constants["BLOCK_TOKENS"],
        "n": constants["NUM_STREAMS"],
        "dtype": dtype,
        "target": target,
        "C": dim,
        "registers": registers,
        "stack_bytes": stack,
        "shared_bytes": binary.metadata.shared,
        "instructions_per_token": round(sum(count["instructions_per_token"] for count in counts)),
        "barriers_per_chunk": counts[0]["barriers_per_chunk"],
        "f2f": sum(count["f2f"] for count in counts),
        "global_access_bits": machine_code.narrowest_access(binary.asm["ptx"], arguments, streams),
        "local_accesses": sum(count["local_accesses"] for count in counts),
    }


def launch_sizes(kernel: Any, constants: dict[str, Any], dim: int) -> list[dict[str, Any]]:
    """The arguments of a launch over `NUM_TOKENS` tokens that say how often loops run, for each kind of programs."""
    sizes = {**constants, "dim": dim, "num_iters": 20, "num_tokens": NUM_TOKENS}
    if "sinkhorn_rows" not in kernel.arg_names:
        return [{**sizes, "num_programs": triton.cdiv(NUM_TOKENS, constants["BLOCK_TOKENS"])}]
    splits, tokens_per_split = token_splits(NUM_TOKENS, constants["BLOCK_TOKENS"])
    programs = triton.cdiv(dim, constants["BLOCK_CHANNELS"]) * splits
    summing = {"first": 0, "tokens_per_split": tokens_per_split, "num_iters": 0, "num_programs": programs}
    programs = triton.cdiv(NUM_TOKENS, constants["BLOCK_MATRICES"])
    iterating = {"first": 0, "tokens_per_split": 0, "num_programs": programs}
    return [{**sizes, **summing}, {**sizes, **iterating}]


def budget_rows(dims: list[int], names: list[str] | None) -> Iterator[dict[str, Any]]:
    """The kernels that `code_budget.yaml` lists, or those of them that are named, at these widths."""
    for dtype in ("bf16", "fp32"):
        for name, kernel, constants in kernels(4, dtype):
            counted = name in BUDGET["limits"] and name in (names or [name])
            for target in ("sm_80", "sm_90") if counted else ():
                for dim in dims:
                    yield budget_row(name, kernel, constants, dtype, target, dim)


def write_code(directory: Path, row: dict[str, Any], kernel: Any, binary: Any) -> None:
    """PTX, which its signature heads, and machine code of one kernel."""
    stem = "-".join(str(row[key]) for key in ("kernel", "n", "dtype", "target")).replace(", ", "-").replace(" ", "_")
    signature = {name: type_ for name, type_ in binary.src.signature.items() if type_ != "constexpr"}
    directory.mkdir(parents=True, exist_ok=True)
    if "cubin" in binary.asm:
        (directory / f"{stem}.ptx").write_text(f"// {json.dumps(signature)}\n{binary.asm['ptx']}")
        (directory / f"{stem}.sass").write_text(machine_code.disassemble(binary.asm["cubin"]))
    else:
        (directory / f"{stem}.amdgcn").write_text(binary.asm["amdgcn"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-streams", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=DEFAULT_TARGETS)
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="only these, by the names that it prints")
    parser.add_argument("--code", type=Path, metavar="DIR", help="write PTX and machine code of each kernel here")
    parser.add_argument("--budget", action="store_true", help="count what the boundary's machine code does")
    parser.add_argument("--dims", type=int, nargs="+", default=[BUDGET["C"]], help="C, with --budget")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    arguments = parser.parse_args()
    rows, exceeded = [], []
    for row in budget_rows(arguments.dims, arguments.kernels) if arguments.budget else resource_rows(arguments):
        print(json.dumps(row), flush=True)
        rows.append(row)
        exceeded += machine_code.over_budget(row, BUDGET) if arguments.budget else []
    if arguments.json:
        result = {"command": " ".join(sys.argv), "triton": triton.__version__, "kernels": rows}
        replace_text(arguments.json, json_text(result))
    if exceeded:
        sys.exit("\n".join(exceeded))


def resource_rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the command line asks for, without `--budget`."""
    for n in arguments.num_streams:
        for name, kernel, constants in kernels(n, arguments.dtype):
            if arguments.kernels and name not in arguments.kernels:
                continue
            for target in arguments.targets:
                start = time.perf_counter()
                binary = compiled(kernel, constants, arguments.dtype, TARGETS[target])
                seconds = time.perf_counter() - start
                row = {"kernel": name, "n": n, "dtype": arguments.dtype, "target": target}
                if arguments.code:
                    write_code(arguments.code, row, kernel, binary)
                yield {**row, **resources(binary, TARGETS[target]), "compile_s": round(seconds, 1)}


if __name__ == "__main__":
    main()
