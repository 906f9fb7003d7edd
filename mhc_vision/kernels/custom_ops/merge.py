"""Merge with Triton: `mhc_vision::merge` and its gradient.

`res` makes m streams of n: m = n after a branch, m = 1 where the streams are read, by a branch or at the end. Tokens
may share a map. Output and post may both be missing: then nothing is added.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.backend import on_its_device
from mhc_vision.kernels.flatten import sum_to_map


@torch.library.custom_op("mhc_vision::merge", mutates_args=())
@on_its_device
def merge(
    streams: Tensor, output: Tensor | None, res: Tensor, post: Tensor | None, dtype: torch.dtype | None = None
) -> Tensor:
    """(M, n, C), (M, C), (M, m, n) or (m, n), (M, m) or (m,) -> (M, m, C), in `dtype` or that of the streams."""
    from mhc_vision.kernels.triton_kernels import merge as launch

    return launch.forward(streams, output, res, post, dtype)


@merge.register_fake
def _(streams: Tensor, _output: Any, res: Tensor, _post: Any, dtype: torch.dtype | None = None) -> Tensor:
    return streams.new_empty(streams.shape[0], res.shape[-2], streams.shape[2], dtype=dtype)


@torch.library.custom_op("mhc_vision::merge_backward", mutates_args=())
@on_its_device
def merge_backward(
    d_merged: Tensor, streams: Tensor, output: Tensor | None, res: Tensor, post: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams, output, and res (M, m, n) and post (M, m) per token, fp32; empty if nothing was given."""
    from mhc_vision.kernels.triton_kernels import merge as launch

    return launch.backward(d_merged, streams, output, res, post)


@merge_backward.register_fake
def _(d_merged: Tensor, streams: Tensor, output: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_tokens, m, _dim = d_merged.shape
    d_res = streams.new_empty(num_tokens, m, streams.shape[1], dtype=torch.float32)
    if output is None:
        return torch.empty_like(streams), d_res.new_empty(0), d_res, d_res.new_empty(0, m)
    return torch.empty_like(streams), torch.empty_like(output), d_res, d_res.new_empty(num_tokens, m)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, d_merged: Tensor) -> tuple[Tensor | None, ...]:
    streams, output, res, post = ctx.saved_tensors
    d_streams, d_output, d_res, d_post = merge_backward(d_merged.contiguous(), streams, output, res, post)
    d_res = sum_to_map(d_res, res, 2)
    if output is None:
        return d_streams, None, d_res, None, None
    return d_streams, d_output, d_res, sum_to_map(d_post, post, 1), None


merge.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.mhc_vision.merge)
def _forward_flops(streams: Any, output: Any, res: Any, *_: Any, **__: Any) -> int:
    num_tokens, n, dim = streams
    return 2 * num_tokens * res[-2] * (n + (output is not None)) * dim


@register_flop_formula(torch.ops.mhc_vision.merge_backward)
def _backward_flops(d_merged: Any, streams: Any, output: Any, *_: Any, **__: Any) -> int:
    num_tokens, m, dim = d_merged
    return 4 * num_tokens * m * (streams[1] + (output is not None)) * dim
