"""Read with Triton: `mhc_vision::read` and its gradient. Tokens may share `pre`."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.backend import on_its_device
from mhc_vision.kernels.flatten import sum_to_map


@torch.library.custom_op("mhc_vision::read", mutates_args=())
@on_its_device
def read(streams: Tensor, pre: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(M, n, C), (M, n) or (n,) -> (M, C), in `dtype` or that of the streams."""
    from mhc_vision.kernels.triton_kernels import merge

    return merge.forward(streams, None, pre.unsqueeze(-2), None, dtype).view(-1, streams.shape[2])


@read.register_fake
def _(streams: Tensor, pre: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return streams.new_empty(streams.shape[0], streams.shape[2], dtype=dtype)


@torch.library.custom_op("mhc_vision::read_backward", mutates_args=())
@on_its_device
def read_backward(d_tokens: Tensor, streams: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of streams, and of pre (M, n) per token, fp32."""
    from mhc_vision.kernels.triton_kernels import merge

    d_streams, _, d_pre, _ = merge.backward(d_tokens.unsqueeze(1), streams, None, pre.unsqueeze(-2), None)
    return d_streams, d_pre.view(streams.shape[:2])


@read_backward.register_fake
def _(d_tokens: Tensor, streams: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(streams), streams.new_empty(streams.shape[:2], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, d_tokens: Tensor) -> tuple[Tensor, Tensor, None]:
    streams, pre = ctx.saved_tensors
    d_streams, d_pre = read_backward(d_tokens.contiguous(), streams, pre)
    return d_streams, sum_to_map(d_pre, pre, 1), None


read.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.mhc_vision.read)
def _forward_flops(streams: Any, *_: Any, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 2 * num_tokens * n * dim


@register_flop_formula(torch.ops.mhc_vision.read_backward)
def _backward_flops(d_tokens: Any, streams: Any, *_: Any, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 4 * num_tokens * n * dim
