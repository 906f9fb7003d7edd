"""Read: the input of a branch, a weighted sum of the streams."""

import torch
from torch import Tensor

from mhc_vision.kernels import compiled, reference
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.kernels.checks import check_map, check_streams
from mhc_vision.kernels.custom_ops.merge import merge
from mhc_vision.kernels.flatten import contiguous_map, flatten_contiguous
from mhc_vision.kernels.precision import full_precision


def read_streams(streams: Tensor, pre: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Weighted sum of the streams: the input of a branch.

    u = pre · X (HC, arXiv 2409.19606, Eq. 3; mHC, arXiv 2512.24880, Eq. 3). The arithmetic is fp32 (fp64 for fp64
    streams); the result is rounded once, to the dtype asked for.

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        pre: (..., n), or (n,) for one map shared by all tokens.
        dtype: of u; None is that of the streams.

    Returns:
        u, (..., C).

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices.
    """
    return reference.read_streams(streams, pre, dtype) if torch.jit.is_scripting() else _unscripted(streams, pre, dtype)


def _unscripted(streams: Tensor, pre: Tensor, dtype: torch.dtype | None) -> Tensor:
    if is_traced():
        return reference.read_streams(streams, pre, dtype)
    check_streams(streams)
    *leading, n, dim = streams.shape
    check_map(pre, "pre", streams, (n,))
    if runs_triton(streams, dim):
        read_out = merge(flatten_contiguous(streams, 2), None, contiguous_map(pre, 1).unsqueeze(-2), None, dtype)
        return read_out.view(*leading, dim)
    op = compiled.read_streams if torch.compiler.is_compiling() else reference.read_streams
    return full_precision(op)(streams, pre, dtype)
