"""Our layer boundary against other mHC implementations: the same results first, then the time.

    pip install liger-kernel hyper-connections tile-kernels     # those to compare with; transformer-engine, too
    python benchmarks/peers.py --json peers.json                # on a GPU
    python benchmarks/peers.py --dry-run                        # tiny, without one: says nothing about time

One line per implementation and C. Errors are relative to the largest value of the formulas in fp64: of the new streams,
of the branch input, and the largest of the gradients of X, f and φ. One that differs by more than the tolerance is not
timed. Ratios are its time over ours: forward, and forward and backward together; all take turns in one run.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = str(int("--dry-run" in sys.argv))

import peer_adapters
import torch
from device_timing import environment, time_ms
from peer_adapters import Prepared, Problem
from torch import Tensor

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.kernels import reference

TOLERANCE = 0.05
DRY_RUN = os.environ["TRITON_INTERPRET"] == "1"


def evaluate(prepared: Prepared, gradients: list[Tensor]) -> list[Tensor]:
    """X', y, and the gradients of X, f and φ in our order and shapes."""
    results = prepared.run()
    found = torch.autograd.grad(results, prepared.inputs, gradients)
    d_streams, d_output, d_weight = (g.detach() for g in found[:3])
    return [results[0].detach(), results[1].detach(), d_streams, d_output, prepared.to_our_order(d_weight)]


def errors(actual: list[Tensor], right: list[Tensor]) -> dict[str, float]:
    """Largest differences, each over the largest value that is right."""
    found = []
    for a, b in zip(actual, right, strict=True):
        # others keep the streams in other places
        a = a.squeeze(0).transpose(1, 2) if a.dim() == 4 and a.shape[-1] == b.shape[1] else a
        found.append(((a.reshape(b.shape).double() - b.double()).abs().max() / b.abs().max()).item())
    return {"error_streams": found[0], "error_input": found[1], "error_gradient": torch.tensor(found[2:]).max().item()}


def upstream(problem: Problem) -> dict[str, list[Tensor]]:
    """Gradients of [X', y, post', res'], and of our logits in place of the maps."""
    exact = peer_adapters.plain(problem, torch.float64)
    merged, normed, post, res = exact.run()
    maps = [torch.randn_like(post), torch.randn_like(res)]
    streams, tokens = (torch.randn_like(t).to(problem.streams.dtype) for t in (merged, normed))
    parameters = (problem.weight.double(), problem.row_scale.double(), problem.bias.double())
    logits = reference.stream_logits(merged.detach(), *parameters)[:, post.shape[1] :].requires_grad_()
    (d_logits,) = torch.autograd.grad(peer_adapters.maps(logits), logits, maps)
    return {
        "maps": [streams, tokens, *(m.float() for m in maps)],
        "logits": [streams, tokens, d_logits.t().contiguous().float()],
        "exact": [streams.double(), tokens.double(), *maps],
    }


def backward(prepared: Prepared, gradients: list[Tensor]) -> Callable[[], Any]:
    """Forward and backward, to time."""
    return lambda: torch.autograd.grad(prepared.run(), prepared.inputs, gradients)


def own_error(name: str, problem: Problem, prepared: Prepared) -> dict[str, float]:
    """Of an implementation with another function: against itself on fp32 streams."""
    wide = Problem(**{**vars(problem), "streams": problem.streams.float(), "output": problem.output.float()})
    actual, right = prepared.run(), peer_adapters.PEERS[name](wide).run()
    found = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(actual, right, strict=True)]
    return {"error_streams": found[0], "error_input": found[1]}


def compare(dim: int, num_tokens: int, names: list[str], repeats: int, device: str) -> list[dict[str, Any]]:
    """One row per implementation; what cannot run or differs says why."""
    problem = peer_adapters.random_problem(num_tokens, dim, torch.float32 if DRY_RUN else torch.bfloat16, device)
    gradients = upstream(problem)
    right = evaluate(peer_adapters.plain(problem, torch.float64), gradients["exact"])
    rows: list[dict[str, Any]] = []
    timed: dict[str, tuple[Prepared, list[Tensor]]] = {}
    for name in ["ours", "plain PyTorch", *names]:
        row: dict[str, Any] = {"implementation": name, "C": dim, "tokens": num_tokens}
        rows.append(row)
        if name in peer_adapters.NEEDS_GPU and device == "cpu":
            row["skipped"] = "its kernels need a GPU"
            continue
        make = {"ours": peer_adapters.ours, "plain PyTorch": peer_adapters.plain, **peer_adapters.PEERS}[name]
        try:
            prepared = make(problem)
        except ImportError as error:
            row["skipped"] = f"not importable: {error}"
            continue
        given = gradients["logits" if name == "ours" else "maps"]
        if name in peer_adapters.OTHER_FUNCTION:
            row["note"] = peer_adapters.OTHER_FUNCTION[name]
            row.update(own_error(name, problem, prepared))
            given = [torch.ones_like(result) for result in prepared.run()]
        else:
            row.update(errors(evaluate(prepared, given), right))
        # a NaN is no agreement: of a tensor, the largest value is NaN if any is
        worst = torch.tensor([value for key, value in row.items() if key.startswith("error")]).max().item()
        if not worst <= TOLERANCE:
            row["skipped"] = f"results differ: {worst:.2g} is more than {TOLERANCE}"
            continue
        timed[name] = (prepared, given)
    add_times(rows, timed, repeats)
    return rows


def add_times(rows: list[dict[str, Any]], timed: dict[str, tuple[Prepared, list[Tensor]]], repeats: int) -> None:
    """Milliseconds, and ratios to ours, of the rows that are timed."""
    forward = time_ms([prepared.run for prepared, _ in timed.values()], repeats)
    both = time_ms([backward(*given) for given in timed.values()], repeats)
    times = dict(zip(timed, zip(forward, both, strict=True), strict=True))
    for row in rows:
        if row["implementation"] in times and "ours" in times:
            (own_forward, own_both), (its_forward, its_both) = times["ours"], times[row["implementation"]]
            row.update(forward_ms=its_forward, forward_backward_ms=its_both)
            row.update(forward_ratio=its_forward / own_forward, forward_backward_ratio=its_both / own_both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[192, 384, 768, 1024, 1280])
    parser.add_argument("--num-tokens", type=int, default=128 * 196)
    parser.add_argument("--peers", nargs="*", choices=peer_adapters.PEERS, default=list(peer_adapters.PEERS))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--dry-run", action="store_true", help="64 channels, 32 tokens, fp32, also without a GPU")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.dims, arguments.num_tokens, arguments.repeats = [64], 32, 1
    elif not torch.cuda.is_available():
        parser.error("there is no GPU to time on; --dry-run runs everything at a tiny size")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for dim in arguments.dims:
        for row in compare(dim, arguments.num_tokens, arguments.peers, arguments.repeats, device):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if arguments.json:
        record = {**environment(), "peers": peer_adapters.installed_versions(), "rows": rows}
        replace_text(arguments.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
