"""The Triton kernels as PyTorch custom ops, which compile, export to AOT graphs and run under every wrapper.

All take flattened, contiguous tensors: M tokens, n streams, C channels, k logits. On devices where no kernel can run
they compute the same with the plain formulas, so that graphs made on one device can be traced on another.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels import reference
from mhc_vision.kernels.backend import can_launch
from mhc_vision.kernels.flatten import sum_to_map


@torch.library.custom_op("mhc_vision::sinkhorn_maps", mutates_args=())
def sinkhorn_maps(logits: Tensor, num_iters: int) -> Tensor:
    """(M, n, n) fp32 -> (M, n, n)."""
    if not can_launch(logits):
        return reference.sinkhorn_knopp(logits, num_iters)
    from mhc_vision.kernels.triton_kernels import sinkhorn, sinkhorn_wide

    kernels = sinkhorn if logits.shape[-1] <= 4 else sinkhorn_wide
    return kernels.forward(logits, num_iters)


@torch.library.custom_op("mhc_vision::sinkhorn_maps_backward", mutates_args=())
def _sinkhorn_maps_backward(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    if not can_launch(logits):
        return _vjp(lambda given: (reference.sinkhorn_knopp(given, num_iters),), (logits,), (d_maps,))[0]
    from mhc_vision.kernels.triton_kernels import sinkhorn, sinkhorn_wide

    kernels = sinkhorn if logits.shape[-1] <= 4 else sinkhorn_wide
    return kernels.backward(d_maps, logits, num_iters)


@torch.library.custom_op("mhc_vision::merge", mutates_args=())
def merge(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    """(M, n, C), (M, C), (M, n, n) or (n, n), (M, n) or (n,) -> (M, n, C)."""
    if not can_launch(streams):
        return reference.merge_streams(streams, output, res, post)
    from mhc_vision.kernels.triton_kernels import merge as kernels

    return kernels.forward(streams, output, res, post)


@torch.library.custom_op("mhc_vision::merge_backward", mutates_args=())
def _merge_backward(
    d_merged: Tensor, streams: Tensor, output: Tensor, res: Tensor, post: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if can_launch(streams):
        from mhc_vision.kernels.triton_kernels import merge as kernels

        return kernels.backward(d_merged, streams, output, res, post)
    num_tokens, n, _ = streams.shape
    maps = res.float().expand(num_tokens, n, n), post.float().expand(num_tokens, n)
    return _vjp(lambda *given: (reference.merge_streams(*given),), (streams, output, *maps), (d_merged,))


@torch.library.custom_op("mhc_vision::read", mutates_args=())
def read(streams: Tensor, pre: Tensor) -> Tensor:
    """(M, n, C), (M, n) or (n,) -> (M, C)."""
    if not can_launch(streams):
        return reference.read_streams(streams, pre)
    from mhc_vision.kernels.triton_kernels import read as kernels

    return kernels.forward(streams, pre)


@torch.library.custom_op("mhc_vision::read_backward", mutates_args=())
def _read_backward(d_tokens: Tensor, streams: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    if can_launch(streams):
        from mhc_vision.kernels.triton_kernels import read as kernels

        return kernels.backward(d_tokens, streams, pre)
    maps = pre.float().expand(streams.shape[:2])
    return _vjp(lambda *given: (reference.read_streams(*given),), (streams, maps), (d_tokens,))


@torch.library.custom_op("mhc_vision::logits", mutates_args=())
def logits(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(M, n, C), (k, n*C), (k,), (k,) -> logits (M, k) and the inverse RMS (M,), fp32."""
    if not can_launch(streams):
        inverse_rms = (streams.float().square().mean((1, 2)) + eps).rsqrt()
        return reference.stream_logits(streams, weight, scale, bias, eps), inverse_rms
    from mhc_vision.kernels.triton_kernels import logits as kernels

    return kernels.forward(streams, kernels.prepare(weight, streams.dtype), scale, bias, eps)


@torch.library.custom_op("mhc_vision::logits_backward", mutates_args=())
def _logits_backward(
    d_logits: Tensor,
    made: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not can_launch(streams):
        arguments = (streams, weight, scale, bias)
        return _vjp(lambda x, w, s, b: (reference.stream_logits(x, w, s, b, eps),), arguments, (d_logits,))
    from mhc_vision.kernels.triton_kernels import logits as kernels

    projection = kernels.prepare(weight, streams.dtype)
    d_streams = kernels.streams_backward(d_logits, made, inverse_rms, streams, projection, scale, bias)
    d_weight, d_scale, d_bias = kernels.parameters_backward(d_logits, inverse_rms, streams, weight, scale)
    return d_streams, d_weight, d_scale, d_bias.to(bias.dtype)


@torch.library.custom_op("mhc_vision::read_by_logits", mutates_args=())
def read_by_logits(streams: Tensor, made: Tensor) -> Tensor:
    """(M, n, C), (M, k) -> (M, C): read with σ of the first n logits."""
    if not can_launch(streams):
        return reference.read_streams(streams, torch.sigmoid(made[:, : streams.shape[1]]))
    from mhc_vision.kernels.triton_kernels import read as kernels

    return kernels.forward(streams, made, sigmoid=True)


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
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams, weight, scale and bias from those of what was read, the other logits and later uses."""
    if not can_launch(streams):
        arguments = (streams, weight, scale, bias)
        gradients = (d_tokens, d_rest, d_handed_on)
        return _vjp(lambda x, w, s, b: reference.branch_input(x, w, s, b, eps), arguments, gradients)
    from mhc_vision.kernels.triton_kernels import logits as kernels
    from mhc_vision.kernels.triton_kernels import read as read_kernels

    n = streams.shape[1]
    d_logits = torch.empty_like(made)
    d_logits[:, n:] = d_rest
    read_kernels.pre_logits_backward(d_tokens, streams, made, d_logits)
    projection = kernels.prepare(weight, streams.dtype)
    d_streams = kernels.streams_backward(
        d_logits, made, inverse_rms, streams, projection, scale, bias, d_tokens, d_handed_on
    )
    d_weight, d_scale, d_bias = kernels.parameters_backward(d_logits, inverse_rms, streams, weight, scale)
    return d_streams, d_weight, d_scale, d_bias.to(bias.dtype)


def _vjp(function: Any, arguments: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> Any:
    """Gradients of the arguments, by autograd through the plain formula; no aliases of what was given."""
    with torch.enable_grad():
        leaves = [argument.detach().clone().requires_grad_() for argument in arguments]
        results = [result.clone() for result in function(*leaves)]
    return torch.autograd.grad(results, leaves, [g.to(r.dtype) for g, r in zip(gradients, results, strict=True)])


# shapes, for tracing


@sinkhorn_maps.register_fake
def _(logits: Tensor, num_iters: int) -> Tensor:
    return torch.empty_like(logits)


@_sinkhorn_maps_backward.register_fake
def _(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    return torch.empty_like(logits)


@merge.register_fake
def _(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    return torch.empty_like(streams)


@_merge_backward.register_fake
def _(
    d_merged: Tensor, streams: Tensor, output: Tensor, res: Tensor, post: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_tokens, n, _ = streams.shape
    d_res, d_post = (streams.new_empty(num_tokens, *shape, dtype=torch.float32) for shape in ((n, n), (n,)))
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
    eps: float,
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
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(streams, weight, scale, bias)


def _like(*tensors: Tensor) -> Any:
    return tuple(torch.empty_like(tensor) for tensor in tensors)


# gradients


def _save() -> Any:
    """A setup_context that saves the tensors among the inputs, then those of the outputs; numbers become attributes."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = output if isinstance(output, tuple) else ()
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)), *outputs)
        ctx.numbers = tuple(value for value in inputs if not isinstance(value, Tensor))

    return setup


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
    return *_logits_backward(d_logits.contiguous(), made, inverse_rms, streams, weight, scale, bias, *ctx.numbers), None


sinkhorn_maps.register_autograd(_sinkhorn_gradient, setup_context=_save())
merge.register_autograd(_merge_gradient, setup_context=_save())
read.register_autograd(_read_gradient, setup_context=_save())
logits.register_autograd(_logits_gradient, setup_context=_save())


class BranchInput(torch.autograd.Function):
    """`logits` and `read_by_logits` with the streams handed on, whose gradient is summed in one pass."""

    @staticmethod
    def forward(
        ctx: Any, streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(M, n, C), ... -> what was read (M, C), the logits behind the first n, the streams."""
        made, inverse_rms = logits(streams, weight, scale, bias, eps)
        ctx.save_for_backward(made, inverse_rms, streams, weight, scale, bias)
        ctx.eps = eps
        return read_by_logits(streams, made), made[:, streams.shape[1] :].clone(), streams.view_as(streams)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of streams, weight, scale and bias."""
        d_tokens, d_rest, d_handed_on = (gradient.contiguous() for gradient in gradients)
        return *branch_input_backward(d_tokens, d_rest, d_handed_on, *ctx.saved_tensors, ctx.eps), None


# floating-point operations: two for a multiplication and an addition


@register_flop_formula(torch.ops.mhc_vision.merge)
def _merge_flops(streams: Any, output: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 2 * num_tokens * (n * n + n) * dim


@register_flop_formula([torch.ops.mhc_vision.read, torch.ops.mhc_vision.read_by_logits])
def _read_flops(streams: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 2 * num_tokens * n * dim


@register_flop_formula(torch.ops.mhc_vision.logits)
def _logits_flops(streams: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * streams[0] * weight[0] * weight[1]


@register_flop_formula(torch.ops.mhc_vision.merge_backward)
def _merge_backward_flops(d_merged: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    num_tokens, n, dim = d_merged
    return 4 * num_tokens * (n * n + n) * dim


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
