"""Branch input with Triton: logits, and what they read, with one gradient, `mhc_vision::branch_input`."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.backend import on_its_device
from mhc_vision.kernels.boundary_arguments import Connection
from mhc_vision.kernels.custom_ops.boundary import parameter_sums
from mhc_vision.kernels.weight_gradients import Held


@torch.library.custom_op("mhc_vision::branch_input", mutates_args=())
@on_its_device
def branch_input(
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    phi: Tensor,
    eps: float,
    read: bool,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(M, n, C) -> u in `dtype` or that of the streams, (M, C), logits (k, M) and inverse RMS (M,) in fp32.

    u has no elements unless it is to be `read`. `phi` is the weight as `prepare_phi` makes it.
    """
    from mhc_vision.kernels.triton_kernels.boundary import launch

    connection = Connection(weight, scale, bias, eps, phi)
    tokens, logits, inverse_rms = launch.branch_input(streams, connection, read, dtype)
    return streams.new_empty(0, dtype=dtype) if tokens is None else tokens, logits, inverse_rms


@branch_input.register_fake
def _(streams: Tensor, weight: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, _, dim = streams.shape
    *_, read, dtype = given
    tokens = streams.new_empty((num_tokens, dim) if read else 0, dtype=dtype)
    logits = streams.new_empty(weight.shape[0], num_tokens, dtype=torch.float32)
    return tokens, logits, logits.new_empty(num_tokens)


@torch.library.custom_op("mhc_vision::branch_input_backward", mutates_args=())
@on_its_device
def branch_input_backward(
    d_rest: Tensor,
    d_tokens: Tensor | None,
    d_handed_on: Tensor | None,
    logits: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    phi: Tensor,
    learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams; of scale; and of weight and bias, side by side; those of parameters in fp32.

    Last, that of the logits of `pre`, (n, M), without elements where nothing was read.

    They are made from those of the logits, of u and of later uses of the streams; with that of u, `d_rest` is of the
    logits after the first n, else of all. Those of parameters cost a pass over the streams and have no elements unless
    `learned`.
    """
    from mhc_vision.kernels.triton_kernels.boundary import launch

    connection = Connection(weight, scale, bias, phi=phi)
    d_streams, d_scale, others, d_pre = launch.branch_input_backward(
        d_tokens, d_handed_on, d_rest, logits, inverse_rms, streams, connection, learned
    )
    return d_streams, d_scale, others, logits.new_empty(0) if d_pre is None else d_pre


@branch_input_backward.register_fake
def _(d_rest: Tensor, d_tokens: Tensor | None, *given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, logits, _inverse_rms, streams, weight, scale, _bias, _phi, learned = given
    sizes = (len(scale), weight.numel() + len(scale)) if learned else (0, 0)
    d_scale, others = (logits.new_empty(size) for size in sizes)
    num_tokens, n, _ = streams.shape
    return torch.empty_like(streams), d_scale, others, logits.new_empty(0 if d_tokens is None else (n, num_tokens))


class BranchInput(torch.autograd.Function):
    """Hands the streams on, so that their gradient is summed in one pass; without `read`, it makes the logits alone."""

    @staticmethod
    def forward(
        ctx: Any,
        streams: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        phi: Tensor,
        eps: float,
        read: bool,
        dtype: torch.dtype | None,
        held: Held | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """-> u, the logits after the first n, (k - n, M), and the streams; or all logits, (k, M)."""
        tokens, logits, inverse_rms = branch_input(streams, weight, scale, bias, phi, eps, read, dtype)
        ctx.save_for_backward(logits, inverse_rms, streams, weight, scale, bias, phi)
        ctx.held = held
        return (tokens, logits[streams.shape[1] :], streams.view_as(streams)) if read else logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of streams, weight, scale and bias."""
        contiguous = [gradient.contiguous() for gradient in gradients]
        d_tokens, d_rest, d_handed_on = contiguous if len(contiguous) == 3 else (None, *contiguous, None)
        learned, saved = any(ctx.needs_input_grad[1:4]), ctx.saved_tensors
        d_streams, d_scale, others, d_pre = branch_input_backward(d_rest, d_tokens, d_handed_on, *saved, learned)
        logits, inverse_rms, streams, weight, scale, _, phi = saved
        if ctx.held is not None:
            sums = d_pre, None, d_rest, streams, logits, inverse_rms, scale, phi
            ctx.held.later(lambda: _of_parameters(*(*parameter_sums(*sums), weight)))
        # autograd casts them from fp32
        of_parameters = _of_parameters(d_scale, others, weight) if learned else (None, None, None)
        return d_streams, *of_parameters, *[None] * 5


def _of_parameters(d_scale: Tensor, others: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight, scale and bias."""
    return others[: weight.numel()].view(weight.shape), d_scale, others[weight.numel() :]


def _products(streams: Any, weight: Any) -> tuple[int, int]:
    """Products of the read, and of the logits."""
    num_tokens, n, dim = streams
    return num_tokens * n * dim, num_tokens * n * dim * weight[0]


@register_flop_formula(torch.ops.mhc_vision.branch_input)
def _forward_flops(streams: Any, weight: Any, *given: Any, **_: Any) -> int:
    *_others, read, _dtype = given
    of_read, of_logits = _products(streams, weight)
    return 2 * (of_read * read + of_logits)


@register_flop_formula(torch.ops.mhc_vision.branch_input_backward)
def _backward_flops(d_rest: Any, d_tokens: Any, *given: Any, **_: Any) -> int:
    *_others, streams, weight, _scale, _bias, _phi, learned = given
    of_read, of_logits = _products(streams, weight)
    return 4 * of_read * (d_tokens is not None) + (4 if learned else 2) * of_logits
