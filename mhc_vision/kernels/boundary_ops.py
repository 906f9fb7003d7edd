"""The layer boundary as PyTorch custom ops; tensors are flattened and contiguous, M tokens, as in `triton_ops`."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.triton_ops import launches


@torch.library.custom_op("mhc_vision::boundary", mutates_args=())
def forward(
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
    """Normed branch input (M, C), streams (M, n, C), logits (k, M), and inverse RMS, mean and rstd, (M,) each."""
    kernels = launches("boundary", streams)
    branch = kernels.Branch(output, layer_scale, keep, tokens_per_sample)
    connection, norm = kernels.Connection(weight, scale, bias), kernels.Norm(norm_weight, norm_bias)
    normed, made = kernels.forward(streams, branch, logits, connection, norm, num_iters, eps, norm_eps)
    return normed, *made


@forward.register_fake
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
        streams.new_empty(num_tokens, dim),
        streams.new_empty(num_tokens, weight.shape[1] // dim, dim),
        streams.new_empty(weight.shape[0], num_tokens, dtype=torch.float32),
        side[0],
        side[1],
        side[2],
    )


@torch.library.custom_op("mhc_vision::boundary_backward", mutates_args=())
def backward(
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
    """Gradients of what `forward` was given, but for `keep`; that of a missing LayerScale means nothing."""
    kernels = launches("boundary", streams)
    branch = kernels.Branch(output, layer_scale, keep, tokens_per_sample)
    connection, norm = kernels.Connection(weight, scale, bias), kernels.Norm(norm_weight, norm_bias)
    arguments = (streams, branch, logits, connection, norm, kernels.Made(*made), num_iters)
    return tuple(kernels.backward(d_streams, d_normed, d_rest, *arguments))


@backward.register_fake
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


@torch.library.custom_op("mhc_vision::boundary_replay", mutates_args=())
def replay(
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    layer_scale: Tensor | None,
    keep: Tensor | None,
    tokens_per_sample: int,
    num_streams: int,
    num_iters: int,
) -> Tensor:
    """Streams (M, n, C), the bits that `forward` gave them."""
    kernels = launches("boundary", streams)
    branch = kernels.Branch(output, layer_scale, keep, tokens_per_sample)
    return launches("boundary_replay", streams).replay(streams, branch, logits, num_streams, num_iters)


@replay.register_fake
def _(
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    layer_scale: Tensor | None,
    keep: Tensor | None,
    tokens_per_sample: int,
    num_streams: int,
    num_iters: int,
) -> Tensor:
    return streams.new_empty(streams.shape[0], num_streams, streams.shape[-1])


# floating-point operations of matrix and vector products: two for a multiplication and an addition


def _flops(output: Any, weight: Any) -> int:
    num_tokens, dim = output
    n = weight[1] // dim
    return 2 * num_tokens * dim * (n * (n + 1) + n * weight[0] + n)


@register_flop_formula(torch.ops.mhc_vision.boundary)
def _forward_flops(
    streams: Any, output: Any, logits: Any, layer_scale: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return _flops(output, weight)


@register_flop_formula(torch.ops.mhc_vision.boundary_backward)
def _backward_flops(
    d_streams: Any,
    d_normed: Any,
    d_rest: Any,
    streams: Any,
    output: Any,
    logits: Any,
    layer_scale: Any,
    weight: Any,
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    # without the merge that is made again, as for any recomputation
    return 2 * _flops(output, weight)
