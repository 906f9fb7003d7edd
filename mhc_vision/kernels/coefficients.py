"""Coefficients: the three maps of a connection, which every token makes from its streams."""

from typing import NamedTuple

import torch
from torch import Tensor

from mhc_vision.kernels.backend import is_traced
from mhc_vision.kernels.checks import check_shape, check_streams
from mhc_vision.kernels.logits import stream_logits
from mhc_vision.kernels.sinkhorn import sinkhorn_knopp


class Coefficients(NamedTuple):
    """The three maps of one connection: per token, or one for all tokens, without the leading dimensions.

    Maps per token are fp32 (fp64 for fp64 streams); static maps have the dtype of their parameters.
    """

    pre: Tensor
    """(..., n): what the branch reads."""
    post: Tensor
    """(..., n): how much of the branch output each stream receives."""
    res: Tensor
    """(..., n, n), `[out, in]`: what the streams become."""


def stream_coefficients(
    streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, num_iters: int = 20, eps: float = 1e-6
) -> Coefficients:
    """Manifold-constrained coefficients of every token.

    pre = σ(H̃_pre), post = 2σ(H̃_post), res = Sinkhorn-Knopp(H̃_res), with H̃ the logits of `stream_logits` (mHC,
    arXiv 2512.24880, Eq. 7-9).

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        weight: φᵀ, (n*n + 2n, n*C), rows [pre n | post n | res n*n], `res` row-major (out, in).
        scale: α, (3,): pre, post, res.
        bias: b, (n*n + 2n,), ordered like the rows of `weight`.
        num_iters: Sinkhorn-Knopp iterations, at least 1.
        eps: added to the mean square in the RMS norm.

    Returns:
        Coefficients of shapes (..., n), (..., n), (..., n, n), in fp32, or fp64 for fp64 streams.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices.
    """
    if not torch.jit.is_scripting():
        _check_arguments(streams, scale, bias)
    n = streams.shape[-2]
    row_scale = torch.cat([scale[0].expand(n), scale[1].expand(n), scale[2].expand(n * n)])
    pre, post, res = stream_logits(streams, weight, row_scale, bias, eps).split([n, n, n * n], -1)
    return Coefficients(
        torch.sigmoid(pre), 2.0 * torch.sigmoid(post), sinkhorn_knopp(res.unflatten(-1, (n, n)), num_iters)
    )


def _check_arguments(streams: Tensor, scale: Tensor, bias: Tensor) -> None:
    if is_traced():
        return
    check_streams(streams)
    n = streams.shape[-2]
    check_shape(scale, "scale", streams, (3,))
    check_shape(bias, "bias", streams, (n * n + 2 * n,))
