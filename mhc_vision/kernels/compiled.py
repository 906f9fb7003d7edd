"""Read and merge as sums of products: under `torch.compile`, Inductor fuses them with the code around them.

In eager mode they would materialise every product; `reference` has the same formulas as matrix products.
"""

import torch
from torch import Tensor

from mhc_vision.kernels import reference
from mhc_vision.kernels.precision import accumulation_dtype
from mhc_vision.kernels.reference import add_output

__all__ = ["add_output", "branch_input", "merge_streams", "read_streams"]


def read_streams(streams: Tensor, pre: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(..., n, C), (..., n) -> (..., C): u = pre · X, in `dtype` or that of the streams."""
    wide = accumulation_dtype(streams.dtype)
    return (pre.to(wide).unsqueeze(-1) * streams.to(wide)).sum(-2).to(dtype or streams.dtype)


def merge_streams(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    """(..., n, C), (..., C), (..., n, n), (..., n) -> (..., n, C): X' = res · X + postᵀ · F."""
    dtype = accumulation_dtype(streams.dtype)
    mixed = (res.to(dtype).unsqueeze(-1) * streams.to(dtype).unsqueeze(-3)).sum(-2)
    written = post.to(dtype).unsqueeze(-1) * output.to(dtype).unsqueeze(-2)
    return (mixed + written).to(streams.dtype)


def branch_input(
    streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(..., n, C), ... -> (..., C), the logits after the first n, and the streams themselves."""
    n = streams.shape[-2]
    logits = reference.stream_logits(streams, weight, scale, bias, eps)
    return read_streams(streams, torch.sigmoid(logits[..., :n]), dtype), logits[..., n:], streams
