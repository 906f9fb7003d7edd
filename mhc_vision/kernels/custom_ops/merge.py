"""Merge with Triton: `mhc_vision::merge` and its gradient.

`res` makes m streams of n: m = n after a branch, m = 1 where the streams are read, by a branch or at the end. Tokens
may share a map. Output and post may both be missing: then nothing is added. Or `res` is: then nothing is mixed.
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
    streams: Tensor, output: Tensor | None, res: Tensor | None, post: Tensor | None, dtype: torch.dtype | None = None
) -> Tensor:
    """(M, n, C), (M, C), (M, m, n) or (m, n), (M, m) or (m,) -> (M, m, C), in `dtype` or that of the streams."""
    from mhc_vision.kernels.triton_kernels import merge as launch

    return launch.forward(streams, output, res, post, dtype)


@merge.register_fake
def _(streams: Tensor, _output: Any, res: Tensor | None, _post: Any, dtype: torch.dtype | None = None) -> Tensor:
    num_tokens, n, dim = streams.shape
    return streams.new_empty(num_tokens, n if res is None else res.shape[-2], dim, dtype=dtype)


@torch.library.custom_op("mhc_vision::merge_backward", mutates_args=())
@on_its_device
def merge_backward(
    d_merged: Tensor, streams: Tensor, output: Tensor | None, res: Tensor | None, post: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of streams, output, and res (M, m, n) and post (M, m) per token, fp32; empty if nothing was given.

    Without `res`, that of the streams is `d_merged`, and empty here.
    """
    from mhc_vision.kernels.triton_kernels import merge as launch

    found = _empty(d_merged, streams, output, res, post)
    launch.backward(d_merged, streams, output, res, post, found)
    return found


@merge_backward.register_fake
def _empty(
    d_merged: Tensor, streams: Tensor, output: Tensor | None, res: Tensor | None, post: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory for the gradients."""
    num_tokens, m, _ = d_merged.shape
    d_post = streams.new_empty(0 if post is None else num_tokens, m, dtype=torch.float32)
    nothing = d_post.new_empty(0)
    d_output = nothing if output is None else torch.empty_like(output)
    if res is None:
        return nothing, d_output, d_post.new_empty(0), d_post
    return torch.empty_like(streams), d_output, d_post.new_empty(num_tokens, m, streams.shape[1]), d_post


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, d_merged: Tensor) -> tuple[Tensor | None, ...]:
    streams, output, res, post = ctx.saved_tensors
    d_streams, d_output, d_res, d_post = merge_backward(d_merged.contiguous(), streams, output, res, post)
    of_streams = (d_merged, None) if res is None else (d_streams, sum_to_map(d_res, res, 2))
    of_output = (None, None) if output is None else (d_output, sum_to_map(d_post, post, 1))
    return of_streams[0], of_output[0], of_streams[1], of_output[1], None


merge.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.mhc_vision.merge)
def _forward_flops(streams: Any, output: Any, res: Any, *_: Any, **__: Any) -> int:
    num_tokens, n, dim = streams
    m = n if res is None else res[-2]
    return 2 * num_tokens * m * (n * (res is not None) + (output is not None)) * dim


@register_flop_formula(torch.ops.mhc_vision.merge_backward)
def _backward_flops(d_merged: Any, streams: Any, output: Any, res: Any, *_: Any, **__: Any) -> int:
    num_tokens, m, dim = d_merged
    return 4 * num_tokens * m * (streams[1] * (res is not None) + (output is not None)) * dim
