"""Add output: the streams after a branch where `res` is the identity, so that nothing is mixed."""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels import compiled, reference
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.kernels.checks import check_map, check_shape, check_streams
from mhc_vision.kernels.custom_ops.merge import merge
from mhc_vision.kernels.flatten import contiguous_map, expand_map, flatten_contiguous, flatten_tokens, sum_to_map
from mhc_vision.kernels.precision import accumulation_dtype, full_precision


def add_output(streams: Tensor, output: Tensor, post: Tensor) -> Tensor:
    """Add the branch output to each stream with the weights `post`: `merge_streams` with res = I.

    X' = X + postᵀ · F(u) (mHC, arXiv 2512.24880, Eq. 3). The arithmetic is fp32 (fp64 for fp64 streams); the result is
    rounded once, to the dtype of the streams.

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        output: F(u), what the branch returned, (..., C).
        post: (..., n), or (n,) for one map shared by all tokens.

    Returns:
        X', (..., n, C), dtype of `streams`.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices.
    """
    return (
        reference.add_output(streams, output, post) if torch.jit.is_scripting() else _unscripted(streams, output, post)
    )


def _unscripted(streams: Tensor, output: Tensor, post: Tensor) -> Tensor:
    if is_traced():
        return reference.add_output(streams, output, post)
    check_streams(streams)
    *leading, n, dim = streams.shape
    check_shape(output, "output", streams, (*leading, dim))
    check_map(post, "post", streams, (n,))
    if runs_triton(streams, dim):
        flat = flatten_contiguous(streams, 2), flatten_contiguous(output, 1)
        return merge(*flat, None, contiguous_map(post, 1)).view(streams.shape)
    op = compiled.add_output if torch.compiler.is_compiling() else _AddOutput.apply
    return full_precision(op)(streams, output, post)


class _AddOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, streams: Tensor, output: Tensor, post: Tensor) -> Tensor:
        ctx.save_for_backward(output, post)
        dtype = accumulation_dtype(streams.dtype)
        added = torch.addcmul(streams.to(dtype), post.to(dtype).unsqueeze(-1), output.to(dtype).unsqueeze(-2))
        return added.to(streams.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_added: Tensor) -> tuple[Tensor, ...]:
        # of the streams, it is the gradient that came
        return d_added, *_add_output_backward(d_added, *ctx.saved_tensors)


@full_precision
def _add_output_backward(d_added: Tensor, output: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of output and post."""
    dtype = accumulation_dtype(d_added.dtype)
    d_x, f = flatten_tokens(d_added, 2, dtype), flatten_tokens(output, 1, dtype)
    token_post = expand_map(post, 1, d_x.shape[0], dtype)
    return (
        torch.bmm(token_post.unsqueeze(1), d_x).to(output.dtype).view(output.shape),
        sum_to_map(torch.bmm(f.unsqueeze(1), d_x.transpose(1, 2)).squeeze(1), post, 1),
    )
