"""Time of each op and of the layer boundary, as a share of what the memory could move.

    python benchmarks/kernels.py --json kernels.json      # on a GPU: C = 192 ... 1280, 25,088 and 50,176 tokens, n = 4
    python benchmarks/kernels.py --dry-run                # tiny, in Triton's interpreter: says nothing about time
    ncu --profile-from-start off python benchmarks/kernels.py --profile --dims 768 --num-tokens 25088

One line per op, pass, C and token count: median milliseconds, the bytes that it moves at least, the share of a large
copy's bandwidth in the same run that this makes, and the time of plain PyTorch over ours. Bytes are those of the plan:
what each kernel must read and write once, with fp32 side data, as `traffic.py` counts them for the boundary. A backward
pass is timed alone, on a graph that is kept.

`--profile` times nothing: it runs the boundary forward and backward, once, between the marks of a profiler.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = str(int("--dry-run" in sys.argv))

import torch
import torch.nn.functional as F
from device_timing import copy_bandwidth, environment, time_ms
from torch import Tensor

from mhc_vision import kernels
from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.kernels import use_backend
from mhc_vision.kernels.boundary import Connection, Merge, Norm

N = 4
K = 2 * N + N * N
SIDE = 4  # bytes of an fp32 number beside the streams

# (vectors of C, fp32 numbers) per token, forward and backward; each read or written once
MOVES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "sinkhorn_knopp": ((0, 2 * N * N), (0, 3 * N * N)),
    "stream_coefficients": ((N, K + 1), (3 * N, 2 * K + 1)),
    "read_streams": ((N + 1, N), (2 * N + 1, 2 * N)),
    "merge_streams": ((2 * N + 1, N * N + N), (3 * N + 2, 2 * (N * N + N))),
    # backward: gradients of the streams, then sums over tokens
    "branch_input": ((N + 1, K + 1), (4 * N + 1, 2 * K + 1)),
    "boundary": ((2 * N + 2, 3 * K + 3), (4 * N + 4, 4 * K + 3 + 3 * N * N)),
}


def bytes_moved(op: str, backward: bool, num_tokens: int, dim: int) -> int:
    """Bytes of bf16 vectors and fp32 side data."""
    vectors, numbers = MOVES[op][backward]
    return num_tokens * (2 * dim * vectors + SIDE * numbers)


def boundary(streams: Tensor, output: Tensor, logits: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """The boundary, of tensors side by side as `plain_boundary` takes them."""
    made = kernels.boundary(streams, Merge(output, logits), Connection(*parameters[:3]), Norm(*parameters[3:]))
    return made[:3]  # maps have no gradient


def plain_boundary(streams: Tensor, output: Tensor, logits: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """What the boundary computes, by the small ops."""
    weight, scale, bias, norm_weight, norm_bias = parameters
    maps = logits.t().unflatten(0, streams.shape[:2])
    res = kernels.sinkhorn_knopp(maps[..., N:].unflatten(-1, (N, N)))
    merged = kernels.merge_streams(streams, output, res, 2 * torch.sigmoid(maps[..., :N]))
    tokens, rest, handed_on = kernels.branch_input(merged, weight, scale, bias)
    norm = (norm_weight.to(tokens.dtype), norm_bias.to(tokens.dtype))
    return handed_on, F.layer_norm(tokens, tokens.shape[-1:], *norm, 1e-6), rest


def cases(
    num_tokens: int, dim: int, device: str
) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]]:
    """Each op, its plain form and its arguments."""

    def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype).requires_grad_()

    streams, output = (
        random(1, num_tokens, N, dim, dtype=torch.bfloat16),
        random(1, num_tokens, dim, dtype=torch.bfloat16),
    )
    parameters = [random(K, N * dim), random(K), random(K)]
    maps = [random(1, num_tokens, N, N), random(1, num_tokens, N)]
    of_boundary = [streams, output, random(N + N * N, num_tokens), *parameters, random(dim), random(dim)]
    same = {
        "sinkhorn_knopp": (kernels.sinkhorn_knopp, [maps[0]]),
        "stream_coefficients": (kernels.stream_coefficients, [streams, parameters[0], random(3), parameters[2]]),
        "read_streams": (kernels.read_streams, [streams, maps[1]]),
        "merge_streams": (kernels.merge_streams, [streams, output, *maps]),
        "branch_input": (kernels.branch_input, [streams, *parameters]),
    }
    return {
        **{name: (op, op, arguments) for name, (op, arguments) in same.items()},
        "boundary": (boundary, plain_boundary, of_boundary),
    }


def passes(
    op: Callable[..., Any], arguments: list[Tensor], backend: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The forward and the backward pass of an op on one backend, to time."""

    def forward() -> list[Tensor]:
        with use_backend(backend):
            results = op(*arguments)
        return [results] if isinstance(results, Tensor) else list(results)

    results = forward()
    gradients = [torch.randn_like(result) for result in results]
    return forward, lambda: torch.autograd.grad(results, arguments, gradients, retain_graph=True)


def measure(num_tokens: int, dim: int, repeats: int, device: str, bandwidth: float) -> list[dict[str, Any]]:
    """Two rows per op."""
    rows = []
    for name, (op, plain, arguments) in cases(num_tokens, dim, device).items():
        ours, theirs = passes(op, arguments, "triton"), passes(plain, arguments, "torch")
        for backward in (False, True):
            own, other = time_ms([ours[backward], theirs[backward]], repeats)
            moved = bytes_moved(name, backward, num_tokens, dim)
            rows.append(
                {
                    "op": name,
                    "pass": "backward" if backward else "forward",
                    "C": dim,
                    "tokens": num_tokens,
                    "ms": own,
                    "bytes": moved,
                    "share_of_copy_bandwidth": moved / (1e-3 * own) / bandwidth,
                    "plain_ms": other,
                    "plain_ratio": other / own,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def profile(num_tokens: int, dim: int, device: str) -> None:
    """The boundary, compiled and warm, between the marks that tell a profiler to begin and to end."""
    op, _, arguments = cases(num_tokens, dim, device)["boundary"]
    both = passes(op, arguments, "triton")
    for run in both:
        run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    for run in both:
        run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[192, 384, 768, 1024, 1280])
    parser.add_argument("--num-tokens", type=int, nargs="+", default=[128 * 196, 256 * 196])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--dry-run", action="store_true", help="64 channels and 32 tokens, in Triton's interpreter")
    parser.add_argument(
        "--profile", action="store_true", help="run the boundary once, for a profiler, in place of times"
    )
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.dims, arguments.num_tokens, arguments.repeats = [64], [32], 1
    elif not torch.cuda.is_available():
        parser.error("there is no GPU to time on; --dry-run runs everything at a tiny size")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.profile:
        for num_tokens in arguments.num_tokens:
            for dim in arguments.dims:
                profile(num_tokens, dim, device)
        return
    bandwidth = copy_bandwidth(arguments.repeats, num_bytes=2**20 if arguments.dry_run else 2**30)
    rows = []
    for num_tokens in arguments.num_tokens:
        for dim in arguments.dims:
            rows += measure(num_tokens, dim, arguments.repeats, device, bandwidth)
    if arguments.json:
        record = {**environment(), "copy_bytes_per_s": bandwidth, "rows": rows}
        replace_text(arguments.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
