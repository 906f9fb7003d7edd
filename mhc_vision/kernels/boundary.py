"""Boundary: from one branch to the next in one op, as the models run it where the Triton kernels do.

There is no plain form of it: elsewhere the models take the steps one by one.
"""

from typing import Any, cast

import torch
from torch import Tensor

from mhc_vision.kernels.checks import check_num_iters, check_shape, check_streams
from mhc_vision.kernels.triton_ops import launches


def boundary(
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    layer_scale: Tensor | None = None,
    keep: Tensor | None = None,
    num_iters: int = 20,
    eps: float = 1e-6,
    norm_eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge a branch into the streams, then make the logits of the next connection, read, and norm what was read.

    With f = keep · layer_scale · output, post = 2σ and res = Sinkhorn-Knopp of the given logits,
    X' = res · X + postᵀ f; then the logits of X' as in `stream_logits`, u = σ(the first n of them) · X' and
    y = LayerNorm(u) (mHC, arXiv 2512.24880, Eq. 3, 7-9, 14-19). The maps are made where they are needed, never stored.

    Args:
        streams: X, (B, N, n, C), or (B, N, C) for n equal streams. bf16, fp16 or fp32; n from 1 to 4; C % 8 = 0.
        output: what the branch returned, (B, N, C).
        logits: of the connection around the branch, (n + n*n, B*N) in fp32: rows [post n | res n*n (out, in)].
        weight: φᵀ of the next connection, (k, n*C) with k = 2n + n*n: rows [pre n | post n | res n*n].
        scale: (k,), one for each logit.
        bias: (k,).
        norm_weight: of the next LayerNorm, (C,).
        norm_bias: (C,).
        layer_scale: (C,), or None.
        keep: DropPath's factor of each sample, (B,), or None.
        num_iters: Sinkhorn-Knopp iterations.
        eps: of the RMS norm.
        norm_eps: of the LayerNorm.

    Returns:
        X', (B, N, n, C), and y, (B, N, C), in the dtype of the streams; the logits of the next connection behind its
        first n, (n + n*n, B*N), fp32.

    Raises:
        ValueError: shapes that do not belong together.
        RuntimeError: tensors that are not on a GPU.
    """
    check_num_iters(num_iters)
    dim = streams.shape[-1]
    if streams.dim() not in (3, 4):
        raise ValueError(f"streams: got shape {tuple(streams.shape)}, expected (B, N, n, C) or (B, N, C)")
    n = weight.shape[1] // dim
    expanded = streams.unsqueeze(-2).expand(*streams.shape[:2], n, dim) if streams.dim() == 3 else streams
    check_streams(expanded)
    check_shape(output, "output", expanded, (*streams.shape[:2], dim))
    num_tokens = streams.shape[:2].numel()
    check_shape(logits, "logits", expanded, (n + n * n, num_tokens))
    check_shape(weight, "weight", expanded, (2 * n + n * n, expanded.shape[-2] * dim))
    parameters = [weight, scale, bias, norm_weight, norm_bias]
    results = _Boundary.apply(
        streams.flatten(0, 1).contiguous(),
        output.flatten(0, 1).contiguous(),
        logits.contiguous(),
        layer_scale,
        *(parameter.contiguous() for parameter in parameters),
        keep,
        streams.shape[1],
        num_iters,
        eps,
        norm_eps,
    )
    merged, normed, rest = results
    return merged.view(*streams.shape[:2], n, dim), normed.view(*streams.shape[:2], dim), rest


@torch.library.custom_op("mhc_vision::boundary", mutates_args=())
def _forward(
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    layer_scale: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    keep: Tensor | None,
    tokens_per_sample: int,
    num_iters: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = launches("boundary", streams)
    branch = kernels.Branch(output, layer_scale, keep, tokens_per_sample)
    connection, norm = kernels.Connection(weight, scale, bias), kernels.Norm(norm_weight, norm_bias)
    return tuple(kernels.forward(streams, branch, logits, connection, norm, num_iters, eps, norm_eps))


@_forward.register_fake
def _(
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    layer_scale: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    keep: Tensor | None,
    tokens_per_sample: int,
    num_iters: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_tokens, dim = streams.shape[0], streams.shape[-1]
    side = [streams.new_empty(num_tokens, dtype=torch.float32) for _ in range(3)]
    return (
        streams.new_empty(num_tokens, weight.shape[1] // dim, dim),
        streams.new_empty(num_tokens, dim),
        streams.new_empty(weight.shape[0], num_tokens, dtype=torch.float32),
        side[0],
        side[1],
        side[2],
    )


@torch.library.custom_op("mhc_vision::boundary_backward", mutates_args=())
def _backward(
    d_streams: Tensor,
    d_normed: Tensor,
    d_rest: Tensor,
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    layer_scale: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    keep: Tensor | None,
    made: list[Tensor],
    tokens_per_sample: int,
    num_iters: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = launches("boundary", streams)
    branch = kernels.Branch(output, layer_scale, keep, tokens_per_sample)
    connection, norm = kernels.Connection(weight, scale, bias), kernels.Norm(norm_weight, norm_bias)
    arguments = (streams, branch, logits, connection, norm, kernels.Made(*made), num_iters)
    return tuple(kernels.backward(d_streams, d_normed, d_rest, *arguments))


@_backward.register_fake
def _(
    d_streams: Tensor,
    d_normed: Tensor,
    d_rest: Tensor,
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    layer_scale: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    keep: Tensor | None,
    made: list[Tensor],
    tokens_per_sample: int,
    num_iters: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    scaled = norm_weight if layer_scale is None else layer_scale
    given = (streams, output, logits, scaled, weight, scale, bias, norm_weight, norm_bias)
    return cast(Any, tuple(torch.empty_like(tensor) for tensor in given))


class _Boundary(torch.autograd.Function):
    """Saves what `boundary` was given, the next streams (which their next use keeps anyway) and 3 numbers a token."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        made = _forward(*given)
        *tensors, ctx.keep, tokens_per_sample, num_iters, _, _ = given
        ctx.numbers = (tokens_per_sample, num_iters)
        ctx.save_for_backward(*tensors, *made)
        merged, normed, logits = made[:3]
        return merged, normed, logits[merged.shape[1] :]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given, made = ctx.saved_tensors[:9], list(ctx.saved_tensors[9:])
        contiguous = (gradient.contiguous() for gradient in gradients)
        found = list(_backward(*contiguous, *given, ctx.keep, made, *ctx.numbers))
        if given[3] is None:
            found[3] = None
        return *found, *[None] * 5
