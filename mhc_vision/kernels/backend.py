"""Which implementation of the ops runs: chosen in one place, and stated when asked.

`auto` runs the Triton kernels on tensors on a GPU that they compile for, and plain PyTorch (`torch`) on all others; it
warns of a GPU that is not on the list, once.
`triton` insists: where the kernels cannot run it raises an error that says why. The environment variable
``MHC_VISION_BACKEND`` chooses, and a `with` block can override it. With ``TRITON_INTERPRET=1`` (set before Python
starts) the kernels run on the CPU, slowly: for tests. Traced and exported graphs hold standard operators, written as in
`reference`, whatever the backend.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

ENVIRONMENT_VARIABLE = "MHC_VISION_BACKEND"
BACKENDS = ("auto", "torch", "triton")
# GPUs that all kernels compile for, which `tests/kernels/test_architectures.py` holds
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# found once: every op asks, also while torch.compile traces it
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _why_not_here() -> str:
    """Why no Triton kernel can run in this process, or an empty string."""
    if not _TRITON_INSTALLED:
        return "the package triton is not installed"
    if not torch.cuda.is_available() and not interpreted():
        return "there is no GPU (on a CPU, set TRITON_INTERPRET=1 before Python starts, for tests)"
    return _why_not_interpreted() if interpreted() else ""


def _why_not_interpreted() -> str:
    """Why this Triton's interpreter cannot run, or an empty string."""
    import numpy
    import triton

    # it makes numbers of arrays with one element (github.com/triton-lang/triton/issues/9171)
    if _minor_version(triton) < (3, 7) and _minor_version(numpy) >= (2, 4):
        return (
            f"the interpreter of Triton {triton.__version__} needs numpy below 2.4, here is {numpy.__version__}: "
            "pip install 'numpy<2.4'"
        )
    return ""


def _minor_version(package: ModuleType) -> tuple[int, ...]:
    return tuple(map(int, package.__version__.split(".")[:2]))


def _validated(backend: str, argument: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"{argument}: got {backend!r}, expected one of {', '.join(map(repr, BACKENDS))}")
    reason = _why_not_here() if backend == "triton" else ""
    if reason:
        raise ValueError(f"{argument}: got 'triton', expected 'torch' or 'auto': {reason}")
    return backend


_requested = _validated(os.environ.get(ENVIRONMENT_VARIABLE, "auto"), ENVIRONMENT_VARIABLE)


def requested_backend() -> str:
    """The backend that `use_backend` or else the environment variable asks for; `'auto'` if neither does."""
    return _requested


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run the ops inside the `with` block on one backend.

    Args:
        backend: `'torch'`, `'triton'` or `'auto'`.

    Raises:
        ValueError: unknown backend, or one that cannot run here; the message says why.
    """
    global _requested
    previous, _requested = _requested, _validated(backend, "backend")
    try:
        yield
    finally:
        _requested = previous


def describe() -> str:
    """One line for logs: what was asked for and what runs."""
    reason = _why_not_here()
    runs = (
        "'torch' (plain PyTorch)"
        if _requested == "torch" or reason
        else f"'triton' on GPUs ({', '.join(ARCHITECTURES)}), 'torch' elsewhere"
    )
    because = f": {reason}" if reason and _requested == "auto" else ""
    return f"mhc_vision kernels: requested {requested_backend()!r}, running {runs}{because}"


def is_traced() -> bool:
    """True under `torch.jit.trace` and `torch.export`; false in eager mode and under `torch.compile`."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def can_launch(tensor: Tensor) -> bool:
    """Whether a Triton kernel can run on the device of this tensor."""
    return tensor.is_cuda or (interpreted() and tensor.device.type == "cpu")


def on_its_device(op: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Runs the body of a custom op, all of whose launches lie in it, on the device of its first tensor.

    Triton launches on the current device, whatever the tensors are on.

    Raises:
        RuntimeError: on each call, where no Triton kernel can run on the device of that tensor.
    """

    @functools.wraps(op)
    def run(tensor: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        if not can_launch(tensor):
            raise RuntimeError(f"kernels: got a tensor on {tensor.device}, expected one on a GPU, which runs Triton")
        with _current_device(tensor):
            return op(tensor, *args, **kwargs)

    return run


def _current_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """The block inside which the device of this tensor is the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def runs_triton(tensor: Tensor, dim: int = 8) -> bool:
    """Whether the Triton kernels are to run on this tensor.

    Args:
        tensor: streams or logits.
        dim: channels C of the streams.

    Raises:
        ValueError: the backend is `triton`, and the kernels do not support this tensor.
    """
    reason = why_not_triton(tensor, dim)
    if reason and _requested == "triton" and tensor.numel():
        raise ValueError(f"streams: {reason} for the backend 'triton'; use 'auto' or 'torch'")
    return not reason


def why_not_triton(tensor: Tensor, dim: int = 8) -> str:
    """Why the Triton kernels are not to run on this tensor, or an empty string; arguments as in `runs_triton`."""
    if _requested == "torch":
        return "the backend is 'torch'"
    if tensor.numel() == 0:
        return "got no numbers"
    if not can_launch(tensor):
        return f"got device {tensor.device}, expected a GPU"
    if not _is_supported(tensor):
        return _unlisted(architecture(tensor.device.index))
    if tensor.dtype not in TRITON_DTYPES:
        return f"got dtype {tensor.dtype}, expected fp16, bf16 or fp32"
    if dim % 8:
        return f"got C = {dim}, expected a multiple of 8"
    if _requested == "auto" and not (tensor.is_cuda and _TRITON_INSTALLED):
        return "'auto' runs plain PyTorch on a CPU" if _TRITON_INSTALLED else "the package triton is not installed"
    return ""


def _is_supported(tensor: Tensor) -> bool:
    """Whether the kernels compile for the device of this tensor."""
    return not tensor.is_cuda or _runs_on_gpu(tensor.device.index)


# a constant of compiled graphs: it holds for the life of the process
@torch.compiler.assume_constant_result
def _runs_on_gpu(index: int) -> bool:
    name = architecture(index)
    if name not in ARCHITECTURES and _requested == "auto":
        _warn_once(f"kernels: {_unlisted(name)}; the operations run in plain PyTorch on it")
    return name in ARCHITECTURES


def _unlisted(name: str) -> str:
    return f"got a GPU of architecture {name}, expected one of {', '.join(ARCHITECTURES)}"


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=1)


def architecture(index: int) -> str:
    """Of a GPU, by its index: `sm_90`, `gfx942`."""
    properties = torch.cuda.get_device_properties(index)
    # AMD's names continue with switches, as in gfx942:sramecc+:xnack-
    return properties.gcnArchName.split(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"
