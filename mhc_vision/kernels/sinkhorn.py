"""Sinkhorn-Knopp: logits to doubly stochastic matrices, with the exact gradient of the iterations run.

In scaling form the iterates are diag(r) K diag(c) with K = exp(logits - column maximum), so only the vectors r and c
change. The backward pass recomputes them and walks the same iterations back; only the logits are saved.
Inside, matrices are laid out (n, n, M) with the M tokens last, so that every operation is a long vector operation.
"""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels import reference
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.kernels.checks import check_floating, check_num_iters, check_num_streams
from mhc_vision.kernels.custom_ops.sinkhorn import sinkhorn_maps
from mhc_vision.kernels.precision import accumulation_dtype


def sinkhorn_knopp(logits: Tensor, num_iters: int = 20) -> Tensor:
    """Map logits onto (nearly) doubly stochastic matrices by Sinkhorn-Knopp.

    M_0 = exp(logits), M_t = T_r(T_c(M_{t-1})): columns are normalised first and rows last, so rows sum to one up to
    rounding and columns up to what `num_iters` iterations reach (mHC, arXiv 2512.24880, Eq. 9). The gradient is the
    exact one of these iterations. NaN and +inf logits give NaN; logits far below their column's maximum are clamped
    (80 below it in fp32, 600 in fp64), so wide logits stay finite.

    Args:
        logits: (..., n, n), `[out, in]`, floating-point, n from 1 to 8.
        num_iters: iterations, at least 1; the paper runs 20.

    Returns:
        (..., n, n) in fp32, or fp64 for fp64 logits.

    Raises:
        ValueError: wrong shape, dtype or `num_iters`.
    """
    return reference.sinkhorn_knopp(logits, num_iters) if torch.jit.is_scripting() else _unscripted(logits, num_iters)


def _unscripted(logits: Tensor, num_iters: int) -> Tensor:
    if is_traced():
        return reference.sinkhorn_knopp(logits, num_iters)
    check_floating(logits, "logits")
    check_num_iters(num_iters)
    if logits.dim() < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected (..., n, n)")
    n = logits.shape[-1]
    check_num_streams(n, "logits: n of shape (..., n, n)")
    if runs_triton(logits):
        return sinkhorn_maps(logits.reshape(-1, n, n).float().contiguous(), num_iters).view(logits.shape)
    return _sinkhorn_knopp(logits.to(accumulation_dtype(logits.dtype)), num_iters)


def _tokens_last(matrices: Tensor) -> Tensor:
    """(..., n, n) -> (n, n, M), contiguous."""
    n = matrices.shape[-1]
    return matrices.reshape(-1, n, n).permute(1, 2, 0).contiguous()


def _tokens_first(matrices: Tensor, shape: torch.Size) -> Tensor:
    """(n, n, M) -> (..., n, n) of the given shape, contiguous."""
    return matrices.permute(2, 0, 1).contiguous().view(shape)


def _scalings(kernel: Tensor, num_iters: int) -> tuple[Tensor, Tensor]:
    """Row scalings r_t = 1 / (K c_t), (T, n, 1, M), and column scalings c_t = 1 / (Kᵀ r_{t-1}), (T, n, M); r_0 = 1."""
    n, _, num_tokens = kernel.shape
    rows, columns = kernel.new_empty(num_iters, n, 1, num_tokens), kernel.new_empty(num_iters, n, num_tokens)
    scaled = torch.empty_like(kernel)
    torch.sum(kernel, 0, out=columns[0])
    for t in range(num_iters):
        column, row = columns[t].reciprocal_(), rows[t]
        torch.sum(torch.mul(kernel, column, out=scaled), 1, keepdim=True, out=row)
        row.reciprocal_()
        if t + 1 < num_iters:
            torch.sum(torch.mul(kernel, row, out=scaled), 0, out=columns[t + 1])
    return rows, columns


@torch.library.custom_op("mhc_vision::sinkhorn_knopp", mutates_args=())
def _sinkhorn_knopp(logits: Tensor, num_iters: int) -> Tensor:
    kernel = reference.spread_below_maximum(_tokens_last(logits), 0).exp_()
    rows, columns = _scalings(kernel, num_iters)
    return _tokens_first(kernel.mul_(columns[-1]).mul_(rows[-1]), logits.shape)


@torch.library.custom_op("mhc_vision::sinkhorn_knopp_backward", mutates_args=())
def _sinkhorn_knopp_backward(d_matrices: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    spread = reference.spread_below_maximum(_tokens_last(logits), 0)
    kernel = spread.exp()
    rows, columns = _scalings(kernel, num_iters)
    d_matrices = _tokens_last(d_matrices)

    # the result diag(r) K diag(c): its three factors
    d_kernel = d_matrices * rows[-1] * columns[-1]
    scaled = d_matrices * kernel
    minus_d_column = (scaled * rows[-1]).sum(0).neg_()
    d_row = (scaled * columns[-1]).sum(1, keepdim=True)
    for t in reversed(range(num_iters)):
        # r_t = 1 / (K c_t) has the derivative -r_t²; multiplied twice rather than by the square, which could overflow
        minus_d_sums = d_row.mul_(rows[t]).mul_(rows[t])
        d_kernel.addcmul_(minus_d_sums, columns[t], value=-1)
        torch.mul(kernel, minus_d_sums, out=scaled)
        if t + 1 < num_iters:
            torch.sum(scaled, 0, out=minus_d_column)
        else:
            minus_d_column.add_(scaled.sum(0))
        # c_t = 1 / (Kᵀ r_{t-1}), r_0 = 1
        d_sums = minus_d_column.mul_(columns[t]).mul_(columns[t])
        if t == 0:
            d_kernel.add_(d_sums)
        else:
            d_kernel.addcmul_(rows[t - 1], d_sums)
            torch.sum(torch.mul(kernel, d_sums, out=scaled), 1, keepdim=True, out=d_row)
    clamped = spread == reference.lowest_spread(logits.dtype)
    return _tokens_first(d_kernel.mul_(kernel).masked_fill_(clamped, 0.0), logits.shape)


@_sinkhorn_knopp.register_fake
def _(logits: Tensor, num_iters: int) -> Tensor:
    return logits.new_empty(logits.shape)


@_sinkhorn_knopp_backward.register_fake
def _(d_matrices: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    return logits.new_empty(logits.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    logits, ctx.num_iters = inputs
    ctx.save_for_backward(logits)


def _backward(ctx: Any, d_matrices: Tensor) -> tuple[Tensor, None]:
    (logits,) = ctx.saved_tensors
    return _sinkhorn_knopp_backward(d_matrices, logits, ctx.num_iters), None


_sinkhorn_knopp.register_autograd(_backward, setup_context=_save_for_backward)
