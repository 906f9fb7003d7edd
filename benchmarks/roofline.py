"""A model of time: what the boundary and a training step take on GPUs that need not be there.

    python benchmarks/kernel_resources.py --budget --json resources.json
    python benchmarks/traffic.py --json bf16.json
    python benchmarks/traffic.py --stream-dtype float32 --json fp32.json
    python benchmarks/roofline.py --resources resources.json --traffic bf16.json fp32.json
    python benchmarks/roofline.py --predictions benchmarks/results/predictions.json --measured FOLDER

A kernel takes the longer of two times. One is its instructions a token, read from the machine code, over the issue
slots of the GPU, times 1.8 for what two warps a scheduler and barriers lose. The other is its bytes, counted in the
interpreter, over the bandwidth of a large copy; what a program reads again counts where half of L2 does not hold it for
all tokens in flight. Registers and shared memory say how many blocks an SM holds; with fewer
than two warps a scheduler the first time grows. A boundary is the sum of its kernels and of PyTorch's small ops beside
them. A step is the plain model's, with boundaries in place of residual additions and norms. Nothing here is measured:
+-30 %.

`--measured` is a folder of `first_gpu_run.py`, whose results are then printed beside the predictions.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from measurements import compare, load_records

from mhc_vision.atomic_files import json_text, replace_text

Row = dict[str, Any]


@dataclass(frozen=True)
class Gpu:
    """What decides a time."""

    target: str
    num_sms: int
    clock_hz: float
    copy_bytes_per_s: float
    """Read and written."""
    bf16_flops: float
    """Dense, by the data sheet."""
    shared_bytes: int
    """Of an SM."""
    l2_bytes: float


# SMs, clocks, shared memory and peaks: NVIDIA's data sheets and "compute capabilities" of the CUDA programming guide.
# H100 and H200 (SXM): 1.755 GHz as under load, not the peak of 1.98; copies measured with PyTorch, 3.0 and 4.3 TB/s,
# both 0.896 of the data sheet. A100 (SXM, 80 GB): 0.871 of 2.039 TB/s, the share that a copy reaches on the 40 GB card
# (github.com/PTsolvers/gpu-workshop-JuliaCon23/issues/7). B200: 148 SMs and 7.67 TB/s as its driver reports
# (github.com/pytorch/ao/pull/4002), of which 0.896; the clock at which 148 SMs make the data sheet's 2,250 TFLOP/s.
GPUS = {
    "A100": Gpu("sm_80", 108, 1.410e9, 1.78e12, 312e12, 164 * 1024, 40e6),
    "H100": Gpu("sm_90", 132, 1.755e9, 3.00e12, 989e12, 228 * 1024, 50e6),
    "H200": Gpu("sm_90", 132, 1.755e9, 4.30e12, 989e12, 228 * 1024, 50e6),
    "B200": Gpu("sm_100", 148, 1.856e9, 6.87e12, 2250e12, 228 * 1024, 126e6),
}
SCHEDULERS = 4  # of an SM, each with one instruction a cycle
REGISTERS, WARPS, BLOCKS = 65536, 64, 32  # of an SM
STALL = 1.8
SMALL_US = 3.5  # no kernel and no small op takes less: launch, ramp and tail
SMALL_OPS = 2  # PyTorch's sums of partial sums, beside the kernels of a boundary without LayerScale
# kernels of a plain ViT's boundaries, but for the first one's, whose streams are one
KERNELS = ("boundary", "boundary backward, streams", "boundary backward, sums")

NUM_TOKENS = 128 * 196
BATCH_SIZE, TOKENS_PER_IMAGE = 128, 197
MODELS = {"vit_small_patch16_224": (384, 12), "vit_base_patch16_224": (768, 12), "vit_large_patch16_224": (1024, 24)}
# of the peak, by a plain ViT block: 350 TFLOP/s on an H200
PLAIN_SHARE = 350 / 989
PLAIN_VECTORS = 8  # of C, that a fused residual addition and norm move in both passes
ITEM_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


def blocks_per_sm(row: Row, gpu: Gpu) -> int:
    """How many fit; a warp gets registers in units of 256, and 1 KB of a block's shared memory is the system's."""
    warps = row.get("warps", 4)
    of_a_warp = -(-32 * row["registers"] // 256) * 256
    by_shared = gpu.shared_bytes // (row["shared_bytes"] + 1024)
    return min(REGISTERS // (of_a_warp * warps), WARPS // warps, BLOCKS, by_shared)


def bytes_per_token(traffic: Row, tokens_in_flight: int, gpu: Gpu) -> float:
    """Through memory; the counts are in units of 2C bytes."""
    unit, moved, again = 2 * traffic["C"], traffic["loads"] + traffic["stores"], traffic["again"]
    held = tokens_in_flight * unit * again <= gpu.l2_bytes / 2
    return float(unit * (moved if held else moved + again))


def kernel_row(traffic: Row, resource: Row, dtype: str, name: str) -> Row:
    """The prediction for one kernel."""
    gpu = GPUS[name]
    blocks = blocks_per_sm(resource, gpu)
    moved = bytes_per_token(traffic, gpu.num_sms * blocks * resource["tokens"], gpu)
    memory_us = 1e6 * NUM_TOKENS * moved / gpu.copy_bytes_per_s
    row = {"gpu": name, "C": traffic["C"], "dtype": dtype, "kernel": traffic["kernel"]}
    row |= {"bytes_per_token": moved, "memory_us": memory_us}
    instructions = resource["instructions_per_token"]
    issue_us = 1e6 * NUM_TOKENS * instructions / (gpu.num_sms * SCHEDULERS * gpu.clock_hz)
    row |= {"instructions_per_token": instructions, "registers": resource["registers"]}
    row |= {"blocks_per_sm": blocks, "issue_us": issue_us}
    waiting_us = STALL * issue_us * max(1.0, 2 * SCHEDULERS / (blocks * resource.get("warps", 4)))
    times = {"launch": SMALL_US, "memory": memory_us, "issue": waiting_us}
    bound = max(times, key=lambda key: times[key])
    return row | {"predicted_us": times[bound], "bound_by": bound}


def of_kernel(traffic: Row, compiled: list[Row]) -> Row:
    """The machine code of a kernel."""
    found = [
        row
        for row in compiled
        if (row["C"], row["function"]) == (traffic["C"], traffic["kernel"]) and row["kernel"] in KERNELS
    ]
    if len(found) != 1:
        names = ", ".join(row["kernel"] for row in found) or "none"
        raise ValueError(f"resources: got {names} for {traffic['kernel']} at C = {traffic['C']}, expected one row")
    return found[0]


def predict(resources: list[Row], traffic: list[Row]) -> dict[str, Any]:
    """Kernels and boundaries at 25,088 tokens, steps at batch 128; GPUs for which nothing was compiled are left out."""
    kernels, boundaries = [], []
    for name, gpu in GPUS.items():
        for dtype in dict.fromkeys(row["dtype"] for row in resources if row["target"] == gpu.target):
            compiled = [row for row in resources if (row["dtype"], row["target"], row["n"]) == (dtype, gpu.target, 4)]
            widths = {row["C"] for row in compiled}
            given = [row for row in traffic if row["C"] in widths and row["dtype"] == dtype]
            made = [kernel_row(row, of_kernel(row, compiled), dtype, name) for row in given]
            kernels += made
            for dim in dict.fromkeys(row["C"] for row in made):
                times = {key: sum(row[key] for row in made if row["C"] == dim) for key in ("predicted_us", "memory_us")}
                times["predicted_us"] += SMALL_OPS * SMALL_US
                boundaries.append({"gpu": name, "C": dim, "dtype": dtype, **times})
    models = predict_models(boundaries)
    return {"num_tokens": NUM_TOKENS, "kernels": kernels, "boundaries": boundaries, "models": models}


def predict_models(boundaries: list[Row]) -> list[Row]:
    """A training step of each model whose width has a boundary, beside the plain model's."""
    rows = []
    num_tokens = BATCH_SIZE * TOKENS_PER_IMAGE
    for boundary in boundaries:
        gpu = GPUS[boundary["gpu"]]
        for model, (dim, depth) in MODELS.items():
            if dim != boundary["C"]:
                continue
            flops = 3 * 2 * depth * num_tokens * (12 * dim**2 + 2 * TOKENS_PER_IMAGE * dim)
            plain_ms = 1e3 * flops / (PLAIN_SHARE * gpu.bf16_flops)
            replaced_us = 1e6 * num_tokens * PLAIN_VECTORS * dim * ITEM_BYTES[boundary["dtype"]] / gpu.copy_bytes_per_s
            added_us = boundary["predicted_us"] * num_tokens / NUM_TOKENS - replaced_us
            step_ms = plain_ms + 1e-3 * 2 * depth * added_us
            row = {"gpu": boundary["gpu"], "model": model, "streams": boundary["dtype"], "batch_size": BATCH_SIZE}
            rows.append({**row, "plain_ms": plain_ms, "predicted_ms": step_ms, "predicted_ratio": step_ms / plain_ms})
    return rows


def table(rows: list[Row]) -> str:
    """Markdown; one column for each key of any row."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ["---"] * len(keys), *([_cell(row.get(key)) for key in keys] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=Path, help="what kernel_resources.py --budget --json has written")
    parser.add_argument("--traffic", type=Path, nargs="+", help="what traffic.py --json has written")
    parser.add_argument("--predictions", type=Path, help="earlier predictions, in place of these two")
    parser.add_argument("--measured", type=Path, help="a folder of first_gpu_run.py, to compare with")
    parser.add_argument("--gpus", nargs="+", choices=GPUS, default=list(GPUS), help="to print; the JSON has all")
    parser.add_argument("--json", type=Path, help="write the predictions here, too")
    arguments = parser.parse_args()
    if arguments.predictions:
        predictions = json.loads(arguments.predictions.read_text())
    elif arguments.resources and arguments.traffic:
        resources = json.loads(arguments.resources.read_text())["kernels"]
        traffic = [row for path in arguments.traffic for row in json.loads(path.read_text())["rows"]]
        predictions = predict(resources, traffic)
    else:
        parser.error("--predictions, or --resources and --traffic, are needed")
    for kind in ("kernels", "boundaries", "models"):
        print(f"\n{kind}, predicted\n\n{table([row for row in predictions[kind] if row['gpu'] in arguments.gpus])}")
    if arguments.measured:
        print(f"\nmeasured\n\n{table(compare(predictions, load_records(arguments.measured)))}")
    if arguments.json:
        head = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(["python", *sys.argv]),
        }
        replace_text(arguments.json, json_text({**head, **predictions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
