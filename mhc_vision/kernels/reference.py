"""Every op in plain PyTorch, written as its formula reads: the ground truth for tests, in any float dtype.

The same functions run where graphs must hold standard operators: TorchScript, tracing, export. They are therefore
scriptable and leave their gradients to autograd. Shapes: n streams, C channels; leading dimensions are free.
"""

import torch
from torch import Tensor

from mhc_vision.kernels.precision import accumulation_dtype


def lowest_spread(dtype: torch.dtype) -> float:
    """How far below its column's maximum a logit counts: exp of it, and the reciprocal, must fit the dtype."""
    return -600.0 if dtype == torch.float64 else -80.0


def spread_below_maximum(logits: Tensor, dim: int = -2) -> Tensor:
    """Logits minus their column maximum (over `dim`, the rows of a column), clamped to the range of exp.

    The column maximum may be subtracted because the first Sinkhorn step normalises columns.
    """
    return (logits - logits.detach().amax(dim, keepdim=True)).clamp(min=lowest_spread(logits.dtype))


def sinkhorn_knopp(logits: Tensor, num_iters: int = 20) -> Tensor:
    """(..., n, n) -> (..., n, n): M_t = T_r(T_c(M_{t-1})), columns first, rows last (mHC, Eq. 9)."""
    matrix = spread_below_maximum(logits.to(accumulation_dtype(logits.dtype))).exp()
    for _ in range(num_iters):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    return matrix


def stream_logits(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """(..., n, C), (k, n*C), (k,), (k,) -> (..., k): scale * (rms_norm(vec(X)) weightᵀ) + bias (mHC, Eq. 14-16)."""
    dtype = accumulation_dtype(streams.dtype)
    flat = streams.flatten(-2).to(dtype)
    inverse_rms = (flat.square().mean(-1, keepdim=True) + eps).rsqrt()
    products = torch.matmul(flat, weight.to(dtype).transpose(-2, -1))
    return products * inverse_rms * scale.to(dtype) + bias.to(dtype)


def read_streams(streams: Tensor, pre: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(..., n, C), (..., n) -> (..., C): u = pre · X, in `dtype` or that of the streams."""
    wide = accumulation_dtype(streams.dtype)
    read = torch.matmul(pre.to(wide).unsqueeze(-2), streams.to(wide)).squeeze(-2)
    return read.to(streams.dtype if dtype is None else dtype)


def merge_streams(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    """(..., n, C), (..., C), (..., n, n), (..., n) -> (..., n, C): X' = res · X + postᵀ · F."""
    dtype = accumulation_dtype(streams.dtype)
    mixed = torch.matmul(res.to(dtype), streams.to(dtype))
    written = post.to(dtype).unsqueeze(-1) * output.to(dtype).unsqueeze(-2)
    return (mixed + written).to(streams.dtype)


def add_output(streams: Tensor, output: Tensor, post: Tensor) -> Tensor:
    """(..., n, C), (..., C), (..., n) -> (..., n, C): X' = X + postᵀ · F."""
    dtype = accumulation_dtype(streams.dtype)
    return (streams.to(dtype) + post.to(dtype).unsqueeze(-1) * output.to(dtype).unsqueeze(-2)).to(streams.dtype)


def branch_input(
    streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float = 1e-6, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and read in one: (..., C), the logits after the first n (..., k - n), and the streams handed on."""
    n = streams.shape[-2]
    logits = stream_logits(streams, weight, scale, bias, eps)
    return read_streams(streams, torch.sigmoid(logits[..., :n]), dtype), logits[..., n:], streams
