"""Logits with Triton: `mhc_vision::logits` and its gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.backend import on_its_device


@torch.library.custom_op("mhc_vision::logits", mutates_args=())
@on_its_device
def logits(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(M, n, C), (k, n*C), (k,), (k,) -> logits (M, k) and the inverse RMS (M,), fp32."""
    from mhc_vision.kernels.triton_kernels.logits import launch

    return launch.forward(streams, launch.prepare(weight, streams.dtype), scale, bias, eps)


@logits.register_fake
def _(streams: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    num_tokens, num_logits = streams.shape[0], weight.shape[0]
    inverse_rms = streams.new_empty(num_tokens, dtype=torch.float32)
    return streams.new_empty(num_tokens, num_logits, dtype=torch.float32), inverse_rms


@torch.library.custom_op("mhc_vision::logits_backward", mutates_args=())
@on_its_device
def logits_backward(
    d_logits: Tensor,
    made: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams, weight, scale and bias from that of the logits `made`; the last three if `learned`."""
    from mhc_vision.kernels.triton_kernels.logits import launch

    projection = launch.prepare(weight, streams.dtype)
    d_streams = launch.streams_backward(d_logits, made, inverse_rms, streams, projection, scale, bias)
    return d_streams, *parameter_gradients(d_logits, inverse_rms, streams, weight, scale, bias, learned)


@logits_backward.register_fake
def _(*given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, streams, weight, scale, bias, learned = given
    return torch.empty_like(streams), *empty_gradients(weight, scale, bias, learned)


def parameter_gradients(
    d_logits: Tensor, inverse_rms: Tensor, streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, learned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight, scale and bias, which cost a pass over the streams; without elements unless `learned`."""
    if not learned:
        return empty_gradients(weight, scale, bias, learned)
    from mhc_vision.kernels.triton_kernels.logits import launch

    d_weight, d_scale, d_bias = launch.parameters_backward(d_logits, inverse_rms, streams, weight, scale)
    return d_weight, d_scale, d_bias.to(bias.dtype)


def empty_gradients(weight: Tensor, scale: Tensor, bias: Tensor, learned: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for them. Ops must return tensors: those that nobody asked for have no elements."""
    if learned:
        return torch.empty_like(weight), torch.empty_like(scale), torch.empty_like(bias)
    return weight.new_empty(0), scale.new_empty(0), bias.new_empty(0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*output, *tensors)


def _gradient(ctx: Any, d_logits: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    # streams, weight, scale, bias, eps
    learned = any(ctx.needs_input_grad[1:4])
    d_streams, *found = logits_backward(d_logits.contiguous(), *ctx.saved_tensors, learned)
    return d_streams, *(found if learned else [None] * 3), None


logits.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.mhc_vision.logits)
def _forward_flops(streams: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * streams[0] * weight[0] * weight[1]


@register_flop_formula(torch.ops.mhc_vision.logits_backward)
def _backward_flops(d_logits: Any, made: Any, inverse_rms: Any, streams: Any, *rest: Any, **__: Any) -> int:
    (num_tokens, num_logits), (_tokens, n, dim) = d_logits, streams
    *_, learned = rest
    return (4 if learned else 2) * num_tokens * num_logits * n * dim
