"""Add and read: from one branch to the next in one op where `res` is the identity, on a CPU.

A CPU waits for memory here, not for arithmetic: streams are n times as large as anything else. So they are written once
forward, their gradient is summed in one buffer backward, and both go through chunks of tokens that fit the cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels.precision import accumulation_dtype, full_precision

# numbers that the tensors of a chunk have together: 1 MB in fp32, which fits an L2 cache
_CHUNK = 2**18


def add_and_read(
    streams: Tensor,
    output: Tensor,
    post_logits: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    in_place: bool = False,
    last: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add a branch output to the streams (res = I), make the logits of the next connection, and read.

    X' = X + postᵀ F with post = 2σ of the given logits; then the logits of X' as in `stream_logits`, and u = σ(the
    first n of them) · X' (mHC, arXiv 2512.24880, Eq. 3, 7-8, 14-18). For stacks of blocks that keep their streams to
    themselves: the backward pass sums the gradient of X in the memory of the gradient of X'.

    Args:
        streams: X, (..., n, C), or (..., C) for n equal streams.
        output: F, what the branch returned, (..., C).
        post_logits: of the branch's connection, (..., n), fp32, or fp64 for fp64 streams.
        weight: α ∘ φᵀ of the next connection, (2n, n*C), rows [pre n | post n].
        bias: b, (2n,).
        eps: added to the mean square.
        in_place: write X' over X, (..., n, C); where no gradient is asked for.
        last: whether others than this op read X': they may hold its gradient, which is left as it is.
        dtype: of u; None is that of the streams.

    Returns:
        X', (..., n, C), dtype of `streams`; u, (..., C); the logits of the next `post`, (..., n).
    """
    return full_precision(_AddAndRead.apply)(streams, output, post_logits, weight, bias, eps, in_place, last, dtype)


class _AddAndRead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        streams: Tensor,
        output: Tensor,
        post_logits: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        in_place: bool,
        last: bool,
        tokens_dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        *leading, n = post_logits.shape
        dim, dtype = output.shape[-1], accumulation_dtype(streams.dtype)
        half_post = torch.sigmoid(post_logits)
        # allocated in their final shapes: the branch could not change a view in place
        merged = streams if in_place else streams.new_empty(*leading, n, dim)
        tokens = torch.empty(*leading, dim, dtype=dtype, device=streams.device)
        pre, logits = torch.empty_like(half_post), half_post.new_empty(*leading, 2 * n)
        normed, inverse_rms = torch.empty_like(logits), half_post.new_empty(*leading, 1)
        parameters = weight.to(dtype), bias.to(dtype), half_post.new_tensor(eps)
        x = merged.view(-1, n, dim)
        given = streams.reshape(len(x), -1, dim), output.reshape(-1, 1, dim), half_post.view(-1, n, 1)
        small = logits.view(-1, 2 * n), normed.view(-1, 2 * n), inverse_rms.view(-1, 1)
        for chunk in _chunks(x.numel(), *given, x, *small, pre.view(-1, 1, n), tokens.view(-1, 1, dim)):
            _forward(*parameters, *chunk)
        ctx.save_for_backward(merged, output, half_post, weight, normed, inverse_rms, pre)
        ctx.equal_streams, ctx.last, ctx.bias_dtype = streams.dim() == output.dim(), last, bias.dtype
        return merged, tokens.to(tokens_dtype or streams.dtype), logits[..., n:].contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_merged: Tensor, d_tokens: Tensor, d_rest: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.last:
            d_merged = d_merged.clone(memory_format=torch.contiguous_format)
        d_streams, *others, d_bias = _add_and_read_backward(d_merged, d_tokens, d_rest, *ctx.saved_tensors)
        if ctx.equal_streams:
            d_streams = d_streams.sum(-2)
        return d_streams, *others, d_bias.to(ctx.bias_dtype), None, None, None, None


def _forward(
    rows: Tensor,
    bias: Tensor,
    eps: Tensor,
    old: Tensor,
    output: Tensor,
    half_post: Tensor,
    merged: Tensor,
    logits: Tensor,
    normed: Tensor,
    inverse_rms: Tensor,
    pre: Tensor,
    tokens: Tensor,
) -> None:
    """Fill the results of a chunk, from `merged` on."""
    _, n, dim = merged.shape
    dtype = rows.dtype
    torch.addcmul(old.to(dtype), half_post, output.to(dtype), value=2.0, out=merged)
    x = merged.to(dtype)
    flat = x.flatten(1)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    torch.addcmul(eps, norm, norm, value=1.0 / (n * dim), out=inverse_rms).rsqrt_()
    torch.mm(flat, rows.t(), out=normed).mul_(inverse_rms)
    torch.add(normed, bias, out=logits)
    torch.sigmoid(logits[:, None, :n], out=pre)
    torch.bmm(pre, x, out=tokens)


@full_precision
def _add_and_read_backward(
    d_merged: Tensor,
    d_tokens: Tensor,
    d_rest: Tensor,
    merged: Tensor,
    output: Tensor,
    half_post: Tensor,
    weight: Tensor,
    normed: Tensor,
    inverse_rms: Tensor,
    pre: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of streams, output, post_logits, weight and bias; the first one is `d_merged`, added to."""
    *_, n, dim = merged.shape
    dtype = normed.dtype
    rows = weight.to(dtype)
    d_rows, d_half_post = torch.zeros_like(rows), torch.empty_like(pre)
    d_output = torch.empty(output.shape, dtype=dtype, device=output.device)
    d_logits = torch.cat([d_rest, d_rest], -1)
    # of the inverse RMS 1/r: d(1/r)/dX = -X / (r³ n C)
    along = normed * inverse_rms.square().div_(-n * dim)
    x = merged.view(-1, n, dim)
    given = x, output.reshape(-1, 1, dim), half_post.view(-1, 1, n), pre.view(-1, 1, n), d_tokens.reshape(-1, 1, dim)
    small = inverse_rms.view(-1, 1), along.view(-1, 2 * n), d_logits.view(-1, 2 * n)
    made = d_merged.view(x.shape), d_output.view(-1, 1, dim), d_half_post.view(-1, 1, n)
    for chunk in _chunks(2 * x.numel(), *given, *small, *made):
        _backward(rows, d_rows, *chunk)
    d_post_logits = torch.ops.aten.sigmoid_backward(d_half_post, half_post)
    return d_merged, d_output.to(output.dtype), d_post_logits, d_rows.to(weight.dtype), d_logits.view(-1, 2 * n).sum(0)


def _backward(
    rows: Tensor,
    d_rows: Tensor,
    x: Tensor,
    output: Tensor,
    half_post: Tensor,
    pre: Tensor,
    d_tokens: Tensor,
    inverse_rms: Tensor,
    along: Tensor,
    d_logits: Tensor,
    d_merged: Tensor,
    d_output: Tensor,
    d_half_post: Tensor,
) -> None:
    """Add the part of a chunk to `d_rows` and `d_merged`; fill `d_output`, `d_half_post` and `pre` of `d_logits`."""
    n, dtype = pre.shape[-1], rows.dtype
    x, d_u, d_x = x.to(dtype), d_tokens.to(dtype), d_merged.to(dtype)
    flat = x.flatten(1)
    d_pre = torch.bmm(d_u, x.transpose(1, 2))
    torch.ops.aten.sigmoid_backward.grad_input(d_pre, pre, grad_input=d_logits[:, None, :n])
    d_products = d_logits * inverse_rms
    d_rows.addmm_(d_products.t(), flat)
    # the terms of the streams' gradient, summed in one buffer
    d_x.view(flat.shape).addmm_(d_products, rows).addcmul_(flat, (d_logits * along).sum(1, keepdim=True))
    d_x.addcmul_(pre.transpose(1, 2), d_u)
    torch.baddbmm(d_output, half_post, d_x, beta=0.0, alpha=2.0, out=d_output)
    torch.baddbmm(d_half_post, output.to(dtype), d_x.transpose(1, 2), beta=0.0, alpha=2.0, out=d_half_post)
    if d_x.dtype != d_merged.dtype:
        d_merged.copy_(d_x)


def _chunks(numbers: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors (M, ...) in chunks of tokens; what one step touches of all chunks has so many `numbers`."""
    size = max(1, _CHUNK * len(tensors[0]) // numbers)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
