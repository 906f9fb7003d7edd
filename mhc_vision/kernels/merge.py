"""Merge: the streams after a branch."""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels import compiled, reference
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.kernels.checks import check_map, check_shape, check_streams
from mhc_vision.kernels.custom_ops.merge import merge
from mhc_vision.kernels.flatten import contiguous_map, expand_map, flatten_contiguous, flatten_tokens, sum_to_map
from mhc_vision.kernels.precision import accumulation_dtype, full_precision


def merge_streams(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    """Mix the streams with `res` and add the branch output to each with the weights `post`.

    X' = res · X + postᵀ · F(u) (mHC, arXiv 2512.24880, Eq. 3; HC, arXiv 2409.19606, Eq. 2). The arithmetic is fp32
    (fp64 for fp64 streams); the result is rounded once, to the dtype of the streams.

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        output: F(u), what the branch returned, (..., C).
        res: (..., n, n), `[out, in]`, or (n, n) for one map shared by all tokens.
        post: (..., n), or (n,) for one map shared by all tokens.

    Returns:
        X', (..., n, C), dtype of `streams`.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices.
    """
    return (
        reference.merge_streams(streams, output, res, post)
        if torch.jit.is_scripting()
        else _unscripted(streams, output, res, post)
    )


def _unscripted(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    if is_traced():
        return reference.merge_streams(streams, output, res, post)
    _check_arguments(streams, output, res, post)
    if runs_triton(streams, streams.shape[-1]):
        return _merge_with_triton(streams, output, res, post).view(streams.shape)
    op = compiled.merge_streams if torch.compiler.is_compiling() else _MergeStreams.apply
    return full_precision(op)(streams, output, res, post)


def merge_and_read(
    streams: Tensor, output: Tensor, res: Tensor, post: Tensor, weight: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Read out the merged streams with equal weights, without making them: weight · Σ_i (res · X + postᵀ · F(u))_i.

    Args:
        streams: X, (..., n, C).
        output: F(u), (..., C).
        res: (..., n, n), `[out, in]`.
        post: (..., n).
        weight: of each stream: 1/n for their mean, 1 for their sum.
        dtype: of the result; None is that of the streams.

    Returns:
        (..., C), rounded once.

    Raises:
        ValueError: as `merge_streams`.
    """
    _check_arguments(streams, output, res, post)
    row, total = weight * res.sum(-2, keepdim=True), weight * post.sum(-1, keepdim=True)
    if runs_triton(streams, streams.shape[-1]):
        return _merge_with_triton(streams, output, row, total, dtype).view(output.shape)
    merged = full_precision(reference.merge_streams)(streams.to(accumulation_dtype(streams.dtype)), output, row, total)
    return merged.squeeze(-2).to(dtype or streams.dtype)


def _check_arguments(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> None:
    check_streams(streams)
    *leading, n, dim = streams.shape
    check_shape(output, "output", streams, (*leading, dim))
    check_map(res, "res", streams, (n, n))
    check_map(post, "post", streams, (n,))


def _merge_with_triton(
    streams: Tensor, output: Tensor, res: Tensor, post: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """(..., n, C), (..., C), (..., m, n), (..., m) -> (M, m, C)."""
    flat = flatten_contiguous(streams, 2), flatten_contiguous(output, 1)
    return merge(*flat, contiguous_map(res, 2), contiguous_map(post, 1), dtype)


class _MergeStreams(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
        ctx.save_for_backward(streams, output, res, post)
        x, f, token_res, token_post = _per_token(streams, output, res, post)
        # the outer product first, then the mixed streams in place; allocated in its final shape, so that it is no view
        merged = torch.empty(streams.shape, dtype=x.dtype, device=x.device)
        written = merged.view(x.shape)
        torch.mul(token_post.unsqueeze(-1), f.unsqueeze(-2), out=written)
        written.baddbmm_(token_res, x)
        return merged.to(streams.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_merged: Tensor) -> tuple[Tensor, ...]:
        return _merge_streams_backward(d_merged, *ctx.saved_tensors)


@full_precision
def _merge_streams_backward(
    d_merged: Tensor, streams: Tensor, output: Tensor, res: Tensor, post: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams, output, res and post."""
    x, f, token_res, token_post = _per_token(streams, output, res, post)
    d_merged = d_merged.reshape(x.shape).to(x.dtype)
    return (
        torch.bmm(token_res.transpose(1, 2), d_merged).to(streams.dtype).view(streams.shape),
        torch.bmm(token_post.unsqueeze(1), d_merged).to(output.dtype).view(output.shape),
        sum_to_map(torch.bmm(d_merged, x.transpose(1, 2)), res, 2),
        sum_to_map(torch.bmm(f.unsqueeze(1), d_merged.transpose(1, 2)).squeeze(1), post, 1),
    )


def _per_token(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments as (M, n, C), (M, C), (M, n, n), (M, n) in the dtype of the arithmetic."""
    dtype = accumulation_dtype(streams.dtype)
    x, f = flatten_tokens(streams, 2, dtype), flatten_tokens(output, 1, dtype)
    return x, f, expand_map(res, 2, x.shape[0], dtype), expand_map(post, 1, x.shape[0], dtype)
