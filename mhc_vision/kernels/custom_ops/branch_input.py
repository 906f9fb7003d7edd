"""Branch input with Triton: logits and read with one gradient, `mhc_vision::branch_input_backward`."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.backend import on_its_device
from mhc_vision.kernels.custom_ops.logits import empty_gradients, logits, parameter_gradients


@torch.library.custom_op("mhc_vision::read_by_logits", mutates_args=())
@on_its_device
def read_by_logits(streams: Tensor, made: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(M, n, C), (M, k) -> (M, C), in `dtype` or that of the streams: read with σ of the first n logits."""
    from mhc_vision.kernels.triton_kernels import read as launch

    return launch.forward(streams, made, dtype, sigmoid=True)


@read_by_logits.register_fake
def _(streams: Tensor, made: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return streams.new_empty(streams.shape[0], streams.shape[2], dtype=dtype)


@torch.library.custom_op("mhc_vision::branch_input_backward", mutates_args=())
@on_its_device
def branch_input_backward(
    d_tokens: Tensor,
    d_rest: Tensor,
    d_handed_on: Tensor,
    made: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams, weight, scale and bias from those of what was read, the other logits and later uses.

    Those of the parameters have no elements unless they are `learned`.
    """
    from mhc_vision.kernels.triton_kernels import read as launch_read
    from mhc_vision.kernels.triton_kernels.logits import launch as launch_logits

    d_logits = torch.empty_like(made)
    d_logits[:, streams.shape[1] :] = d_rest
    launch_read.pre_logits_backward(d_tokens, streams, made, d_logits)
    projection = launch_logits.prepare(weight, streams.dtype)
    d_streams = launch_logits.streams_backward(
        d_logits, made, inverse_rms, streams, projection, scale, bias, d_tokens, d_handed_on
    )
    return d_streams, *parameter_gradients(d_logits, inverse_rms, streams, weight, scale, bias, learned)


@branch_input_backward.register_fake
def _(*given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, streams, weight, scale, bias, learned = given
    return torch.empty_like(streams), *empty_gradients(weight, scale, bias, learned)


class BranchInput(torch.autograd.Function):
    """`logits` and `read_by_logits` with the streams handed on, whose gradient is summed in one pass."""

    @staticmethod
    def forward(
        ctx: Any,
        streams: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        eps: float,
        tokens_dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(M, n, C), ... -> what was read (M, C), the logits after the first n, the streams."""
        made, inverse_rms = logits(streams, weight, scale, bias, eps)
        ctx.save_for_backward(made, inverse_rms, streams, weight, scale, bias)
        return (
            read_by_logits(streams, made, tokens_dtype),
            made[:, streams.shape[1] :].clone(),
            streams.view_as(streams),
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of streams, weight, scale and bias."""
        d_tokens, d_rest, d_handed_on = (gradient.contiguous() for gradient in gradients)
        learned = any(ctx.needs_input_grad[1:4])
        d_streams, *found = branch_input_backward(d_tokens, d_rest, d_handed_on, *ctx.saved_tensors, learned)
        return d_streams, *(found if learned else [None] * 3), None, None


@register_flop_formula(torch.ops.mhc_vision.read_by_logits)
def _read_flops(streams: Any, *_: Any, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 2 * num_tokens * n * dim


@register_flop_formula(torch.ops.mhc_vision.branch_input_backward)
def _backward_flops(d_tokens: Any, d_rest: Any, d_handed_on: Any, made: Any, *rest: Any, **__: Any) -> int:
    (num_tokens, n, dim), (_tokens, num_logits) = d_handed_on, made
    *_, learned = rest
    return 2 * num_tokens * ((2 if learned else 1) * num_logits + 2) * n * dim
