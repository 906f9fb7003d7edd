"""The Triton kernels as PyTorch custom ops, which compile, export to AOT graphs and run under every wrapper.

All take flattened, contiguous tensors: M tokens, n streams, C channels, k logits. Where no kernel can run, the public
ops call the plain formulas instead of these.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.backend import can_launch
from mhc_vision.kernels.flatten import sum_to_map


def launches(name: str, tensor: Tensor) -> Any:
    """Module of launches; imported here, so that nothing of Triton is where it does not run."""
    if not can_launch(tensor):
        raise RuntimeError(f"kernels: got a tensor on {tensor.device}, expected one on a GPU, where Triton kernels run")
    return import_module(f"mhc_vision.kernels.triton_kernels.{name}")


@torch.library.custom_op("mhc_vision::sinkhorn_maps", mutates_args=())
def sinkhorn_maps(logits: Tensor, num_iters: int) -> Tensor:
    """(M, n, n) fp32 -> (M, n, n)."""
    return _sinkhorn_kernels(logits).forward(logits, num_iters)


@torch.library.custom_op("mhc_vision::sinkhorn_maps_backward", mutates_args=())
def _sinkhorn_maps_backward(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    return _sinkhorn_kernels(logits).backward(d_maps, logits, num_iters)


def _sinkhorn_kernels(logits: Tensor) -> Any:
    return launches("sinkhorn" if logits.shape[-1] <= 4 else "sinkhorn_wide", logits)


@torch.library.custom_op("mhc_vision::merge", mutates_args=())
def merge(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    """(M, n, C), (M, C), (M, m, n) or (m, n), (M, m) or (m,) -> (M, m, C)."""
    return launches("merge", streams).forward(streams, output, res, post)


@torch.library.custom_op("mhc_vision::merge_backward", mutates_args=())
def _merge_backward(
    d_merged: Tensor, streams: Tensor, output: Tensor, res: Tensor, post: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return launches("merge", streams).backward(d_merged, streams, output, res, post)


@torch.library.custom_op("mhc_vision::read", mutates_args=())
def read(streams: Tensor, pre: Tensor) -> Tensor:
    """(M, n, C), (M, n) or (n,) -> (M, C)."""
    return launches("read", streams).forward(streams, pre)


@torch.library.custom_op("mhc_vision::read_backward", mutates_args=())
def _read_backward(d_tokens: Tensor, streams: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    return launches("read", streams).backward(d_tokens, streams, pre)


@torch.library.custom_op("mhc_vision::logits", mutates_args=())
def logits(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(M, n, C), (k, n*C), (k,), (k,) -> logits (M, k) and the inverse RMS (M,), fp32."""
    kernels = launches("logits", streams)
    return kernels.forward(streams, kernels.prepare(weight, streams.dtype), scale, bias, eps)


@torch.library.custom_op("mhc_vision::logits_backward", mutates_args=())
def _logits_backward(
    d_logits: Tensor, made: Tensor, inverse_rms: Tensor, streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kernels = launches("logits", streams)
    projection = kernels.prepare(weight, streams.dtype)
    d_streams = kernels.streams_backward(d_logits, made, inverse_rms, streams, projection, scale, bias)
    d_weight, d_scale, d_bias = kernels.parameters_backward(d_logits, inverse_rms, streams, weight, scale)
    return d_streams, d_weight, d_scale, d_bias.to(bias.dtype)


@torch.library.custom_op("mhc_vision::read_by_logits", mutates_args=())
def read_by_logits(streams: Tensor, made: Tensor) -> Tensor:
    """(M, n, C), (M, k) -> (M, C): read with σ of the first n logits."""
    return launches("read", streams).forward(streams, made, sigmoid=True)


@torch.library.custom_op("mhc_vision::branch_input_backward", mutates_args=())
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams, weight, scale and bias from those of what was read, the other logits and later uses."""
    kernels, n = launches("logits", streams), streams.shape[1]
    d_logits = torch.empty_like(made)
    d_logits[:, n:] = d_rest
    launches("read", streams).pre_logits_backward(d_tokens, streams, made, d_logits)
    projection = kernels.prepare(weight, streams.dtype)
    d_streams = kernels.streams_backward(
        d_logits, made, inverse_rms, streams, projection, scale, bias, d_tokens, d_handed_on
    )
    d_weight, d_scale, d_bias = kernels.parameters_backward(d_logits, inverse_rms, streams, weight, scale)
    return d_streams, d_weight, d_scale, d_bias.to(bias.dtype)


# shapes, for tracing


@sinkhorn_maps.register_fake
def _(logits: Tensor, num_iters: int) -> Tensor:
    return torch.empty_like(logits)


@_sinkhorn_maps_backward.register_fake
def _(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    return torch.empty_like(logits)


@merge.register_fake
def _(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    return streams.new_empty(streams.shape[0], res.shape[-2], streams.shape[2])


@_merge_backward.register_fake
def _(
    d_merged: Tensor, streams: Tensor, output: Tensor, res: Tensor, post: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_tokens, n, _ = streams.shape
    m = res.shape[-2]
    d_res, d_post = (streams.new_empty(num_tokens, *shape, dtype=torch.float32) for shape in ((m, n), (m,)))
    return torch.empty_like(streams), torch.empty_like(output), d_res, d_post


@read.register_fake
def _(streams: Tensor, pre: Tensor) -> Tensor:
    return streams.new_empty(streams.shape[0], streams.shape[2])


@_read_backward.register_fake
def _(d_tokens: Tensor, streams: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(streams), streams.new_empty(streams.shape[:2], dtype=torch.float32)


@logits.register_fake
def _(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    num_tokens = streams.shape[0]
    return (
        streams.new_empty(num_tokens, weight.shape[0], dtype=torch.float32),
        streams.new_empty(num_tokens, dtype=torch.float32),
    )


@_logits_backward.register_fake
def _(
    d_logits: Tensor,
    made: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(streams, weight, scale, bias)


@read_by_logits.register_fake
def _(streams: Tensor, made: Tensor) -> Tensor:
    return streams.new_empty(streams.shape[0], streams.shape[2])


@branch_input_backward.register_fake
def _(
    d_tokens: Tensor,
    d_rest: Tensor,
    d_handed_on: Tensor,
    made: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(streams, weight, scale, bias)


def _like(*tensors: Tensor) -> Any:
    return tuple(torch.empty_like(tensor) for tensor in tensors)


# gradients


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Saves the tensors among the inputs, then the outputs where there are several; numbers become an attribute."""
    outputs = output if isinstance(output, tuple) else ()
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)), *outputs)
    ctx.numbers = tuple(value for value in inputs if not isinstance(value, Tensor))


def _sinkhorn_gradient(ctx: Any, d_maps: Tensor) -> tuple[Tensor, None]:
    (given,) = ctx.saved_tensors
    return _sinkhorn_maps_backward(d_maps.contiguous(), given, *ctx.numbers), None


def _merge_gradient(ctx: Any, d_merged: Tensor) -> tuple[Tensor, ...]:
    streams, output, res, post = ctx.saved_tensors
    d_streams, d_output, d_res, d_post = _merge_backward(d_merged.contiguous(), streams, output, res, post)
    return d_streams, d_output, sum_to_map(d_res, res, 2), sum_to_map(d_post, post, 1)


def _read_gradient(ctx: Any, d_tokens: Tensor) -> tuple[Tensor, Tensor]:
    streams, pre = ctx.saved_tensors
    d_streams, d_pre = _read_backward(d_tokens.contiguous(), streams, pre)
    return d_streams, sum_to_map(d_pre, pre, 1)


def _logits_gradient(ctx: Any, d_logits: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    streams, weight, scale, bias, made, inverse_rms = ctx.saved_tensors
    return *_logits_backward(d_logits.contiguous(), made, inverse_rms, streams, weight, scale, bias), None


sinkhorn_maps.register_autograd(_sinkhorn_gradient, setup_context=_save)
merge.register_autograd(_merge_gradient, setup_context=_save)
read.register_autograd(_read_gradient, setup_context=_save)
logits.register_autograd(_logits_gradient, setup_context=_save)


class BranchInput(torch.autograd.Function):
    """`logits` and `read_by_logits` with the streams handed on, whose gradient is summed in one pass."""

    @staticmethod
    def forward(
        ctx: Any, streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(M, n, C), ... -> what was read (M, C), the logits behind the first n, the streams."""
        made, inverse_rms = logits(streams, weight, scale, bias, eps)
        ctx.save_for_backward(made, inverse_rms, streams, weight, scale, bias)
        return read_by_logits(streams, made), made[:, streams.shape[1] :].clone(), streams.view_as(streams)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of streams, weight, scale and bias."""
        d_tokens, d_rest, d_handed_on = (gradient.contiguous() for gradient in gradients)
        return *branch_input_backward(d_tokens, d_rest, d_handed_on, *ctx.saved_tensors), None


# floating-point operations: two for a multiplication and an addition


@register_flop_formula(torch.ops.mhc_vision.merge)
def _merge_flops(streams: Any, output: Any, res: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 2 * num_tokens * res[-2] * (n + 1) * dim


@register_flop_formula([torch.ops.mhc_vision.read, torch.ops.mhc_vision.read_by_logits])
def _read_flops(streams: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 2 * num_tokens * n * dim


@register_flop_formula(torch.ops.mhc_vision.logits)
def _logits_flops(streams: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * streams[0] * weight[0] * weight[1]


@register_flop_formula(torch.ops.mhc_vision.merge_backward)
def _merge_backward_flops(d_merged: Any, streams: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    num_tokens, m, dim = d_merged
    return 4 * num_tokens * m * (streams[1] + 1) * dim


@register_flop_formula(torch.ops.mhc_vision.read_backward)
def _read_backward_flops(d_tokens: Any, streams: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 4 * num_tokens * n * dim


@register_flop_formula(torch.ops.mhc_vision.logits_backward)
def _logits_backward_flops(
    d_logits: Any, made: Any, inverse_rms: Any, streams: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return 4 * streams[0] * weight[0] * weight[1]


@register_flop_formula(torch.ops.mhc_vision.branch_input_backward)
def _branch_input_backward_flops(
    d_tokens: Any,
    d_rest: Any,
    d_handed_on: Any,
    made: Any,
    inverse_rms: Any,
    streams: Any,
    weight: Any,
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    num_tokens, n, dim = streams
    return 4 * num_tokens * (weight[0] * weight[1] + n * dim)
