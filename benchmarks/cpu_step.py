"""Cost of hyper-connections on a CPU: the training step of a model against the plain timm model, in one run.

    python benchmarks/cpu_step.py                        # ViT-S and ViT-Ti, eager
    python benchmarks/cpu_step.py --model vit_tiny_patch16_224 --compile
    python benchmarks/cpu_step.py --sinkhorn-iters 1     # what the iterations cost: compare with the default of 20
    python benchmarks/cpu_step.py --constraint identity --batch-size 4 --threads 1

The two models alternate step by step, so that the machine's noise hits both; medians and their ratio are printed.
`mhc-vision profile` measures whole training steps, memory and other sizes, of one model.
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path

import timm
import torch
from torch import nn

import mhc_vision
from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.layers import CONNECTIONS, CONSTRAINTS
from mhc_vision.models.instruments.timing import alternate

KINDS = ("plain", "hyper")


def forward_and_backward(model: nn.Module, images: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(images).sum().backward()


def compare(
    name: str, connection: str, options: dict[str, int | str], batch_size: int, steps_each: int, compiled: bool
) -> dict[str, object]:
    """Median step times in ms of `name` and of its hyper-connected twin, and their ratio."""
    models = [timm.create_model(name), timm.create_model(f"{name}_{connection}", **options)]
    images = torch.randn(batch_size, *models[0].default_cfg["input_size"])
    for model in models:
        if compiled:
            model.compile(fullgraph=True)
    steps = {kind: partial(forward_and_backward, model, images) for kind, model in zip(KINDS, models, strict=True)}
    times = alternate(steps, seconds=0, least_rounds=steps_each)
    plain, hyper = (1e3 * times[kind].median for kind in KINDS)
    return {
        "model": name,
        "connection": connection,
        **options,
        "batch_size": batch_size,
        "compiled": compiled,
        "plain_ms": round(plain, 1),
        "hyper_ms": round(hyper, 1),
        "ratio": round(hyper / plain, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["vit_small_patch16_224", "vit_tiny_patch16_224"])
    parser.add_argument("--connection", default="mhc", choices=list(CONNECTIONS))
    parser.add_argument("--num-streams", type=int, default=4)
    parser.add_argument("--sinkhorn-iters", type=int, default=20, help="of mhc")
    parser.add_argument("--constraint", default="sinkhorn", choices=list(CONSTRAINTS), help="of mhc, on `res`")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each model")
    parser.add_argument("--compile", action="store_true", help="compile both models")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options: dict[str, int | str] = {"num_streams": args.num_streams}
    if args.connection == "mhc":
        options |= {"constraint": args.constraint, "sinkhorn_iters": args.sinkhorn_iters}
    results = []
    for name in args.model:
        result = compare(name, args.connection, options, args.batch_size, args.steps, args.compile)
        print(json.dumps(result), flush=True)
        results.append(result)
    if args.json:
        versions = {"torch": torch.__version__, "timm": timm.__version__, "mhc_vision": mhc_vision.__version__}
        record = {"machine": platform.processor() or platform.machine(), **versions, "results": results}
        replace_text(args.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
