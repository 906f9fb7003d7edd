"""What a training step asks of the CPU: Triton launches, PyTorch ops, and the time of a layer boundary.

    python benchmarks/launches.py                    # a ViT of depth 12 with mHC, n = 4
    python benchmarks/launches.py --json launches.json

It needs no GPU: tensors are on the CPU, and kernels are launched as on a GPU, but do nothing. Counts are exact, for
forward and backward pass together: of Triton's launches by kernel, and of PyTorch's ops that launch kernels of their
own, beside those of the plain model. A boundary's few tokens take the same Python as a large batch. Its times leave out
what the driver of a GPU takes, a few microseconds a launch, and hold for the machine that they were taken on.
"""

import argparse
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import timm
import torch
import triton
from device_timing import environment
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

import mhc_vision  # noqa: F401 (registers the models)
from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.kernels import backend, boundary, use_backend
from mhc_vision.kernels.boundary import Connection, Merge, Norm
from mhc_vision.kernels.prepared_phi import prepare_phi

PLAIN, MODEL, DEPTH = "vit_tiny_patch16_224", "vit_tiny_patch16_224_mhc", 12
N, DIM, TOKENS = 4, 64, 16
# names of ops that launch no kernel, though they are no views, begin so
ALLOCATIONS = ("empty", "new_empty", "_unsafe_view")

LAUNCHES: Counter[str] = Counter()
"""Of Triton's kernels, by name."""


class Ops(TorchDispatchMode):
    """Counts PyTorch's ops that launch kernels, by name; looks into custom ops."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "mhc_vision":
            with self:
                return func.redispatch(DispatchKeySet(DispatchKey.CPU), *args, **(kwargs or {}))
        if not is_view(func) and not func.__name__.startswith(ALLOCATIONS):
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def is_view(func: Any) -> bool:
    """Whether an op only looks at its argument in another way."""
    return any(made.alias_info is not None and not made.alias_info.is_write for made in func._schema.returns)


class Driver:
    """Stands for the driver of an H100 whose kernels do nothing."""

    def get_current_target(self) -> GPUTarget:
        """For the compiler."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default one."""
        return 0


class Compiled:
    """Stands for a kernel that is compiled."""

    function = packed_metadata = None

    def __init__(self, name: str) -> None:
        self.name = name

    def launch_metadata(self, *_: Any) -> None:
        """For hooks, of which there are none."""

    def run(self, *_: Any) -> None:
        """Count the launch."""
        LAUNCHES[self.name] += 1


@contextmanager
def inert_kernels() -> Iterator[None]:
    """Triton's kernels are launched for tensors on the CPU, and do nothing but count."""

    def compiled(kernel: JITFunction, key: str, signature: Any, device: int, *_: Any) -> Compiled:
        # a compilation leaves the global variables to watch
        assert kernel.cache_key
        made = kernel.device_caches[device][0][key] = Compiled(kernel.fn.__name__)
        return made

    triton.runtime.driver.set_active(Driver())
    before = JITFunction._do_compile, backend.interpreted
    JITFunction._do_compile, backend.interpreted = compiled, lambda: True
    try:
        with use_backend("triton"):
            yield
    finally:
        JITFunction._do_compile, backend.interpreted = before


def counted(run: Callable[[], Any]) -> tuple[Counter[str], Counter[str]]:
    """Launches of Triton's kernels, and PyTorch's ops that launch kernels."""
    LAUNCHES.clear()
    with Ops() as ops:
        run()
    return Counter(LAUNCHES), ops.counts


def boundary_passes(dtype: torch.dtype) -> tuple[Callable[[], list[Tensor]], Callable[[list[Tensor]], Any]]:
    """Forward and backward pass of a boundary with LayerScale and DropPath, as it stands in a model."""

    def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, dtype=dtype).requires_grad_()

    k = 2 * N + N * N
    streams, output = random(1, TOKENS, N, DIM, dtype=dtype), random(1, TOKENS, DIM, dtype=dtype)
    merge = Merge(output, random(N + N * N, TOKENS), random(DIM), torch.ones(1))
    weight = random(k, N * DIM)
    connection = Connection(weight, random(k), random(k), 1e-6, prepare_phi([weight], N, dtype)[0])
    norm = Norm(random(DIM), random(DIM))
    leaves = [streams, *merge[:3], *connection[:3], *norm[:2]]

    def forward() -> list[Tensor]:
        return list(boundary(streams, merge, connection, norm)[:3])

    gradients = [torch.ones_like(result) for result in forward()]
    return forward, lambda results: torch.autograd.grad(results, leaves, gradients)


def boundary_row(dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Launches, ops and microseconds of each pass, the fastest tenth."""
    with inert_kernels():
        forward, backward = boundary_passes(dtype)
        launches, ops = counted(lambda: backward(forward()))
        taken: dict[str, list[float]] = {"forward_us": [], "backward_us": []}
        for _ in range(repeats):
            times = [time.perf_counter()]
            results = forward()
            times.append(time.perf_counter())
            backward(results)
            times.append(time.perf_counter())
            for name, began, ended in zip(taken, times, times[1:], strict=False):
                taken[name].append(1e6 * (ended - began))
    return {
        "of": "boundary",
        "dtype": str(dtype).removeprefix("torch."),
        "num_launches": launches.total(),
        "num_ops": ops.total(),
        # neighbours on the machine only add to a time
        **{name: round(statistics.quantiles(times, n=10, method="inclusive")[0], 1) for name, times in taken.items()},
        "launches": dict(launches),
        "ops": dict(ops),
    }


def step_row() -> dict[str, Any]:
    """Launches and ops of a model's step."""
    images = torch.randn(1, 3, 224, 224)
    plain, model = (timm.create_model(name, depth=DEPTH).train() for name in (PLAIN, MODEL))
    _, of_plain = counted(lambda: plain(images).sum().backward())
    with inert_kernels():
        launches, ops = counted(lambda: model(images).sum().backward())
    return {
        "of": "step",
        "model": MODEL,
        "depth": DEPTH,
        "num_launches": launches.total(),
        "num_ops": ops.total(),
        "num_ops_of_plain": of_plain.total(),
        "launches": dict(launches),
        "ops_beside_plain": dict(ops - of_plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="timed passes of the boundary")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in (*(boundary_row(dtype, arguments.repeats) for dtype in (torch.bfloat16, torch.float32)), step_row()):
        print(json.dumps(row), flush=True)
        rows.append(row)
    if arguments.json:
        replace_text(arguments.json, json_text({**environment(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
