"""Boundary: from one branch to the next in one op, as the models run it where the Triton kernels do.

There is no plain form of it: elsewhere the models take the steps one by one.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mhc_vision.kernels import boundary_ops
from mhc_vision.kernels.backend import TRITON_DTYPES, can_launch
from mhc_vision.kernels.checks import check_eps, check_floating, check_num_iters, check_shape

# more would not fit the registers
MAX_STREAMS = 4


class Merge(NamedTuple):
    """One merge of the past: the arguments of the same names that its `boundary` was given."""

    output: Tensor
    logits: Tensor
    layer_scale: Tensor | None
    keep: Tensor | None
    num_iters: int


class Past(NamedTuple):
    """How streams came about: from these, (B, N, n, C) or (B, N, C), by these merges, one after the other."""

    streams: Tensor
    merges: tuple[Merge, ...]


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
    past: Past | None = None,
    save: bool = True,
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
        past: of `streams`; where given, they are not kept but made again from it, bit for bit, in the backward pass.
        save: whether to keep X' for the backward pass; where not, that pass makes it again from the streams.

    Returns:
        X', (B, N, n, C), and y, (B, N, C), in the dtype of the streams; the logits of the next connection behind its
        first n, (n + n*n, B*N), fp32.

    Raises:
        ValueError: shapes, dtypes or devices that the kernels do not take or that do not belong together.
    """
    check_num_iters(num_iters)
    check_eps(eps)
    check_eps(norm_eps, "norm_eps")
    n = _check_streams(streams, weight)
    dim = streams.shape[-1]
    parameters = {"weight": weight, "scale": scale, "bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias}
    num_logits = 2 * n + n * n
    shapes = [(num_logits, n * dim), (num_logits,), (num_logits,), (dim,), (dim,)]
    for (name, parameter), shape in zip(parameters.items(), shapes, strict=True):
        check_shape(parameter, name, streams, shape)
    check_shape(output, "output", streams, (*streams.shape[:2], dim))
    check_shape(logits, "logits", streams, (n + n * n, streams.shape[0] * streams.shape[1]))
    for name, factor, length in (("layer_scale", layer_scale, dim), ("keep", keep, streams.shape[0])):
        if factor is not None:
            check_shape(factor, name, streams, (length,))
    results = _Boundary.apply(
        streams.flatten(0, 1).contiguous(),
        output.flatten(0, 1).contiguous(),
        logits.contiguous(),
        layer_scale,
        *(parameter.contiguous() for parameter in parameters.values()),
        keep,
        streams.shape[1],
        num_iters,
        eps,
        norm_eps,
        save,
        *_flatten(past),
    )
    merged, normed, rest = results
    return merged.view(*streams.shape[:2], n, dim), normed.view(*streams.shape[:2], dim), rest


def _check_streams(streams: Tensor, weight: Tensor) -> int:
    """The number of streams n, or a ValueError where no kernel takes them."""
    check_floating(streams, "streams")
    shape = tuple(streams.shape)
    if len(shape) not in (3, 4) or 0 in shape or shape[-1] % 8:
        raise ValueError(f"streams: got shape {shape}, expected (B, N, n, C) or (B, N, C), no 0 in it, C % 8 = 0")
    if streams.dtype not in TRITON_DTYPES:
        raise ValueError(f"streams: got dtype {streams.dtype}, expected fp16, bf16 or fp32")
    if not can_launch(streams):
        raise ValueError(f"streams: got device {streams.device}, expected a GPU, where Triton kernels run")
    n = shape[2] if len(shape) == 4 else weight.shape[-1] // shape[-1]
    if not 1 <= n <= MAX_STREAMS:
        raise ValueError(f"streams: got n = {n} of them, expected 1 to {MAX_STREAMS}")
    return n


def _flatten(past: Past | None) -> list[Any]:
    """The past as arguments of an autograd function, which sees only tensors that stand alone: no gradient flows."""
    if past is None:
        return []
    flat: list[Any] = [past.streams.detach().flatten(0, 1).contiguous()]
    for merge in past.merges:
        flat += [merge.output.detach().flatten(0, 1).contiguous(), merge.logits.detach().contiguous()]
        flat += [None if tensor is None else tensor.detach() for tensor in (merge.layer_scale, merge.keep)]
        flat.append(merge.num_iters)
    return flat


class _Boundary(torch.autograd.Function):
    """Saves what `boundary` was given, the next streams (which their next use keeps anyway) and 3 numbers a token.

    Streams with a past are not saved, but what they are made from, which the boundaries before keep anyway.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, save, past = given[:14], given[14], list(given[15:])
        normed, merged, *made = boundary_ops.forward(*given)
        streams, *tensors, tokens_per_sample, num_iters, _, _ = given
        ctx.numbers = (tokens_per_sample, num_iters)
        ctx.past_iters = past[5::5]
        past = [value for value in past if not isinstance(value, int)]
        ctx.save_for_backward(None if past else streams, *tensors, merged if save else None, *made, *past)
        ctx.num_past = len(past)
        return merged, normed, made[0][merged.shape[1] :]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (streams, *tensors, keep), made = ctx.saved_tensors[:10], list(ctx.saved_tensors[10:15])
        past = ctx.saved_tensors[15:]
        tokens_per_sample, num_iters = ctx.numbers
        n = gradients[0].shape[1]
        if past:
            streams = past[0]
            for i, iters in enumerate(ctx.past_iters):
                streams = boundary_ops.replay(streams, *past[1 + 4 * i : 5 + 4 * i], tokens_per_sample, n, iters)
        if made[0] is None:
            output, logits, layer_scale = tensors[:3]
            made[0] = boundary_ops.replay(streams, output, logits, layer_scale, keep, tokens_per_sample, n, num_iters)
        contiguous = (gradient.contiguous() for gradient in gradients)
        found = list(boundary_ops.backward(*contiguous, streams, *tensors, keep, made, *ctx.numbers))
        if tensors[2] is None:
            found[3] = None
        return *found, *[None] * (6 + ctx.num_past + len(ctx.past_iters))
