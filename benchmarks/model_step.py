"""Cost of hyper-connections on a GPU: training step and inference against the plain timm model, in one run.

    python benchmarks/model_step.py --json model_step.json                 # ViT-S, B and L, batch 128, bf16
    python benchmarks/model_step.py --models vit_base_patch16_224 --stream-stride 2
    python benchmarks/model_step.py --dry-run                              # tiny, on the CPU: says nothing about time

Models are in bf16, streams and weights, with the connections in fp32; `--precision autocast` keeps fp32 weights and
runs under autocast, where timm's residual stream, and so ours, is fp32; `--stream-dtype auto` makes ours bf16. A
training step is forward, cross entropy, backward and a fused AdamW step. The models of a line take turns. A time runs
from the first launch to the end of the GPU's work: a model whose launches take longer than its kernels shows it. MFU
counts the floating-point operations of the plain model (three times the forward pass in training) over the peak of
dense bf16 of the card: what hyper-connections add is cost.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import timm
import torch
from device_timing import environment, time_ms
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mhc_vision
from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.layers import STREAM_DTYPES, HyperConnection
from mhc_vision.models.instruments.steps import Step
from mhc_vision.training.callbacks.throughput import peak_flops

CONNECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("", {}),
    "shc-4": ("_shc", {"num_streams": 4}),
    "dhc-4": ("_dhc", {"num_streams": 4}),
    "mhc-2": ("_mhc", {"num_streams": 2}),
    "mhc-4": ("_mhc", {"num_streams": 4}),
}


def mfu(flops: float, milliseconds: float, peak: float | None) -> float | None:
    """Share of the peak that this many floating-point operations in this time are."""
    return None if peak is None else flops / (1e-3 * milliseconds) / peak


def forward_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Of the matrix products and attention of one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


def build(name: str, connection: str, device: str, arguments: argparse.Namespace) -> nn.Module:
    """A model in its precision; connections stay in fp32."""
    suffix, options = CONNECTIONS[connection]
    options = dict(options)
    if arguments.stream_stride and suffix == "_mhc":
        options["stream_stride"] = arguments.stream_stride
    model = timm.create_model(name + suffix, **options).to(device)
    if suffix:
        model.set_stream_dtype(arguments.stream_dtype)
    if arguments.precision == "bf16":
        model.to(torch.bfloat16)
        for module in model.modules():
            if isinstance(module, HyperConnection):
                module.float()
    return model


def measure(name: str, mode: str, compiled: bool, arguments: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """One row per connection, in training or inference."""
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    shape = timm.get_pretrained_cfg(name).input_size
    images = torch.randn(arguments.batch_size, *shape, device=device, dtype=dtype)
    steps: dict[str, Step] = {}
    memory: dict[str, int | None] = {}
    for connection in arguments.connections:
        model = build(name, connection, device, arguments)
        if connection == "plain":
            flops = forward_flops(model, images[:1]) * arguments.batch_size
        if compiled:
            model.compile()
        step = Step(model, images, train=mode == "training", autocast=arguments.precision == "autocast")
        for _ in range(3):
            step()
        memory[connection] = step.peak_memory()
        steps[connection] = step
    times = dict(zip(steps, time_ms(list(steps.values()), arguments.steps, held=False), strict=True))
    peak = peak_flops(environment()["device"], arguments.peak_tflops)
    return [
        {
            "model": name,
            "connection": connection,
            "mode": mode,
            "compiled": compiled,
            "precision": arguments.precision,
            "stream_dtype": arguments.stream_dtype,
            "batch_size": arguments.batch_size,
            "ms": milliseconds,
            "images_per_s": arguments.batch_size / (1e-3 * milliseconds),
            "ratio_to_plain": milliseconds / times["plain"],
            "peak_memory_bytes": memory[connection],
            "path": mhc_vision.describe(steps[connection].model),
            "mfu": mfu((3 if mode == "training" else 1) * flops, milliseconds, peak),
        }
        for connection, milliseconds in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [f"vit_{size}_patch16_224" for size in ("small", "base", "large")]
    parser.add_argument("--models", nargs="+", default=names, help="names of plain timm models")
    parser.add_argument("--connections", nargs="+", choices=CONNECTIONS, default=list(CONNECTIONS))
    parser.add_argument("--execution", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--precision", choices=("bf16", "autocast"), default="bf16")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each model")
    parser.add_argument("--stream-dtype", choices=STREAM_DTYPES, default="model", help="auto: bf16 under autocast")
    parser.add_argument("--stream-stride", type=int, help="of mHC: keep the streams of every so many boundaries")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of a card that is not in the table")
    parser.add_argument("--dry-run", action="store_true", help="test_vit, two images, eager, also without a GPU")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.models, arguments.execution, arguments.batch_size, arguments.steps = ["test_vit"], ["eager"], 2, 1
    elif not torch.cuda.is_available():
        parser.error("there is no GPU to time on; --dry-run runs everything at a tiny size")
    # everything is compared with it
    arguments.connections = ["plain", *(name for name in arguments.connections if name != "plain")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name in arguments.models:
        for execution in arguments.execution:
            for mode in ("training", "inference"):
                for row in measure(name, mode, execution == "compiled", arguments, device):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                torch.compiler.reset()
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("precision", "stream_dtype", "batch_size")}
        record = {**environment(), **settings, "kernels": mhc_vision.kernels.describe(), "rows": rows}
        replace_text(arguments.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
