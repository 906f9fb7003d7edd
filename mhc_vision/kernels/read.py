"""Read: what a branch sees of the streams."""

import torch
from torch import Tensor

from mhc_vision.kernels import fusable, reference, triton_ops
from mhc_vision.kernels.backend import runs_triton
from mhc_vision.kernels.checks import check_map, check_streams
from mhc_vision.kernels.flatten import contiguous_map, flatten_contiguous
from mhc_vision.kernels.precision import full_precision
from mhc_vision.kernels.tracing import is_traced


def read_streams(streams: Tensor, pre: Tensor) -> Tensor:
    """Weighted sum of the streams: the input of a branch.

    u = pre · X (HC, arXiv 2409.19606, Eq. 3; mHC, arXiv 2512.24880, Eq. 3). The arithmetic is fp32 (fp64 for fp64
    streams); the result is rounded once, to the dtype of the streams.

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        pre: (..., n), or (n,) for one map that all tokens share.

    Returns:
        u, (..., C), dtype of `streams`.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices.
    """
    if torch.jit.is_scripting():
        tokens = reference.read_streams(streams, pre)
    elif is_traced():
        tokens = reference.read_streams(streams, pre)
    else:
        check_streams(streams)
        check_map(pre, "pre", streams, (streams.shape[-2],))
        if runs_triton(streams, streams.shape[-1]):
            tokens = triton_ops.read(flatten_contiguous(streams, 2), contiguous_map(pre, 1))
            return tokens.view(*streams.shape[:-2], streams.shape[-1])
        op = fusable.read_streams if torch.compiler.is_compiling() else reference.read_streams
        tokens = full_precision(op)(streams, pre)
    return tokens
