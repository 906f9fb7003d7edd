"""Bytes that the kernels of the layer boundary load and store, counted in Triton's interpreter.

    python benchmarks/traffic.py                       # C = 192, 384, 768, 1024, n = 4, bf16
    python benchmarks/traffic.py --stream-dtype float32
    python benchmarks/traffic.py --json traffic.json

Branch outputs are bf16, as autocast makes them, whatever the streams are: `float32` counts what `stream_dtype: model`
moves under autocast, `bfloat16` what `auto` does. The unit is one C-wide bf16 vector per token (2C bytes). Bytes count
where the masks let them through. Two kinds are listed apart, because L2 serves them. One is `shared` by tiles: φ,
parameters and partial sums, which every tile of tokens reads or writes, side data that every tile of channels reads,
and Sinkhorn's scratch. The other is loaded `again` by a program that has loaded or stored it before, which holds where
the tokens in flight fit into L2. `plan` is what the design moves of streams and other vectors of C where all are bf16;
the rest is side data in fp32.
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton
from torch import Tensor
from triton.runtime import interpreter

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.kernels.boundary import Connection, Merge, Norm
from mhc_vision.kernels.prepared_phi import prepare_phi
from mhc_vision.kernels.triton_kernels.boundary import launch as launch_boundary

# arguments that tiles of tokens share, and scratch
PARAMETERS = {"phi_ptr", "weight_ptr", "scale_ptr", "bias_ptr", "gamma_ptr", "norm_weight_ptr", "norm_bias_ptr"}
SHARED = PARAMETERS | {"scratch_ptr", "d_gamma_ptr", "sums_ptr", "d_scale_ptr"}
SHARED_BY_CHANNELS = {"d_pre_ptr", "d_rest_ptr", "made_ptr", "statistics_ptr"}

# the streams and other vectors of C that each kernel reads and writes, by the design, at n = 4
PLAN = {"forward_kernel": 10, "streams_backward_kernel": 15, "sums_backward_kernel": 5}

KINDS = ("loads", "stores", "shared", "again")


class Meter:
    """Counts the bytes of loads and stores by kernel and kind: `loads`, `stores`, `shared` or `again`."""

    def __init__(self) -> None:
        self.kernel = ""
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.shared: list[tuple[int, int]] = []
        self.touched: set[int] = set()

    def count(self, direction: str, pointers: Any, mask: Any) -> None:
        """Add what a load or store of these pointers moves."""
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        if not addresses.size:
            return
        width = pointers.get_element_ty().primitive_bitwidth // 8
        if any(start <= int(addresses.flat[0]) < end for start, end in self.shared):
            self.bytes[self.kernel, "shared"] += int(addresses.size) * width
            return
        distinct = set(addresses.ravel().tolist())
        again = len(distinct & self.touched) if direction == "loads" else 0
        self.bytes[self.kernel, "again"] += again * width
        self.bytes[self.kernel, direction] += (len(distinct) - again) * width
        self.touched |= distinct


def install(meter: Meter) -> None:
    """Let the interpreter report to the meter."""
    builder = interpreter.InterpreterBuilder
    load, store, next_program = builder.create_masked_load, builder.create_masked_store, builder.set_grid_idx

    def counting_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        meter.count("loads", pointers, mask)
        return load(self, pointers, mask, *rest)

    def counting_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        meter.count("stores", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def forgetting_next_program(self: Any, *index: int) -> None:
        meter.touched.clear()
        next_program(self, *index)

    builder.create_masked_load, builder.create_masked_store = counting_load, counting_store
    builder.set_grid_idx = forgetting_next_program
    for name, kernel in vars(launch_boundary).items():
        if name.endswith("_kernel") and isinstance(kernel, interpreter.InterpretedFunction):
            setattr(launch_boundary, name, _Named(meter, name, kernel))


class _Named:
    """A kernel that tells the meter its name when it is launched."""

    def __init__(self, meter: Meter, name: str, kernel: Any) -> None:
        self.meter, self.name, self.kernel = meter, name, kernel

    def __getitem__(self, grid: Any) -> Any:
        launch = self.kernel[grid]

        def run(*args: Any, **kwargs: Any) -> None:
            self.meter.kernel = self.name
            by_channels = self.name == "sums_backward_kernel"
            self.meter.shared = [
                (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
                for name, tensor in zip(self.kernel.arg_names, args, strict=False)
                if isinstance(tensor, Tensor) and (name in SHARED or (by_channels and name in SHARED_BY_CHANNELS))
            ]
            launch(*args, **kwargs)

        return run


def measure(dim: int, n: int, num_tokens: int, dtype: torch.dtype, meter: Meter) -> list[dict[str, Any]]:
    """Units of C per token, by kernel, of one boundary forward and backward with streams of this dtype."""
    meter.bytes.clear()
    k = 2 * n + n * n
    streams, output = torch.randn(num_tokens, n, dim).to(dtype), torch.randn(num_tokens, dim).to(torch.bfloat16)
    parameters = [torch.randn(k, n * dim), torch.randn(k), torch.randn(k), torch.ones(dim), torch.zeros(dim)]
    logits = torch.randn(n + n * n, num_tokens)
    given = streams, Merge(output, logits), _connection(parameters[:3], n, streams.dtype), Norm(*parameters[3:])
    normed, made = launch_boundary.forward(*given)
    forward = dict(meter.bytes)
    d_streams, d_normed = torch.randn_like(streams), torch.randn_like(normed)
    launch_boundary.backward(d_streams, d_normed, torch.randn_like(logits), made, True, *given)
    rows: dict[str, dict[str, Any]] = {}
    for (kernel, kind), count in meter.bytes.items():
        row = rows.setdefault(kernel, {"kernel": kernel, "plan": PLAN.get(kernel, 0), **dict.fromkeys(KINDS, 0.0)})
        row[kind] += count / num_tokens / (2 * dim)
        row["pass"] = "forward" if (kernel, kind) in forward else "backward"
    return list(rows.values())


def _connection(parameters: list[Tensor], n: int, dtype: torch.dtype) -> Connection:
    return Connection(*parameters, phi=prepare_phi(parameters[:1], n, dtype)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[192, 384, 768, 1024])
    parser.add_argument("--num-streams", type=int, default=4)
    parser.add_argument("--num-tokens", type=int, default=256)
    parser.add_argument("--stream-dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    arguments = parser.parse_args()
    meter = Meter()
    install(meter)
    results = []
    for dim in arguments.dims:
        dtype = getattr(torch, arguments.stream_dtype)
        rows = measure(dim, arguments.num_streams, arguments.num_tokens, dtype, meter)
        for row in rows:
            results.append(
                {
                    "C": dim,
                    "dtype": {"bfloat16": "bf16", "float32": "fp32"}[arguments.stream_dtype],
                    **{key: round(v, 2) if isinstance(v, float) else v for key, v in row.items()},
                }
            )
            print(json.dumps(results[-1]))
        total = sum(row["loads"] + row["stores"] for row in rows)
        print(f"C = {dim}: {total:.1f} C in all")
    if arguments.json:
        record = {"command": " ".join(sys.argv), "triton": triton.__version__, "rows": results}
        replace_text(arguments.json, json_text(record))


if __name__ == "__main__":
    main()
