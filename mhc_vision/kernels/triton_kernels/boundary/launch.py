"""Launches of the layer boundary: forward, backward, and its merge alone. All tensors are contiguous."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from mhc_vision.kernels.boundary_arguments import Connection, Gradients, Made, Merge, Norm
from mhc_vision.kernels.triton_kernels.boundary.backward import merge_backward_kernel, read_norm_backward_kernel
from mhc_vision.kernels.triton_kernels.boundary.forward import merge_logits_kernel, read_norm_kernel
from mhc_vision.kernels.triton_kernels.boundary.replay import replay_kernel
from mhc_vision.kernels.triton_kernels.logits import launch as launch_logits
from mhc_vision.kernels.triton_kernels.sinkhorn import launch as launch_sinkhorn
from mhc_vision.kernels.triton_kernels.tiles import tile


def forward(streams: Tensor, merge: Merge, connection: Connection, norm: Norm) -> tuple[Tensor, Made]:
    """Streams (M, n, C), or (M, C) for equal ones -> y, the normed input of the next branch, (M, C), and more."""
    made = Made.empty(streams, connection)
    _merge_logits(streams, merge, connection, made)
    return _read_norm(made, norm), made


def _merge_logits(streams: Tensor, merge: Merge, connection: Connection, made: Made) -> None:
    """Writes streams, logits and inverse RMS of `made`."""
    num_tokens, n, dim = made.streams.shape
    projection = launch_logits.prepare(connection.weight, streams.dtype)
    blocks = tile("boundary", n)
    merge_logits_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        streams,
        merge.output,
        merge.logits,
        merge.layer_scale,
        merge.keep,
        projection.phi,
        connection.scale,
        connection.bias,
        made.streams,
        made.logits,
        made.inverse_rms,
        num_tokens,
        dim,
        *_strides(streams, n),
        _tokens_per_sample(merge),
        projection.num_logits,
        merge.num_iters,
        connection.eps,
        NUM_STREAMS=n,
        **projection.options,
        **_scaling(merge),
        **blocks,
    )


def _read_norm(made: Made, norm: Norm) -> Tensor:
    """Writes mean and rstd of `made`; returns y."""
    num_tokens, n, dim = made.streams.shape
    normed = made.streams.new_empty(num_tokens, dim)
    blocks = tile("boundary_norm", n)
    read_norm_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        made.streams,
        made.logits,
        norm.weight,
        norm.bias,
        normed,
        made.mean,
        made.rstd,
        num_tokens,
        norm.eps,
        DIM=dim,
        NUM_STREAMS=n,
        **blocks,
    )
    return normed


class _NormGradients(NamedTuple):
    """What the backward pass of read and LayerNorm leaves for the others; `d` is weight · dy."""

    pre: Tensor
    """Of the first n logits: (n, M)."""
    mean: Tensor
    """Mean of d over the channels: (M,)."""
    along: Tensor
    """Mean of d times the normed values over the channels: (M,)."""
    parameters: Tensor
    """Partial sums of weight and bias: (tiles, 2, C)."""


class _MergeGradients(NamedTuple):
    """What the backward pass of the merge makes."""

    streams: Tensor
    output: Tensor
    logits: Tensor
    """The first n rows, of `post`, are written; those of `res` follow from the next field."""
    res: Tensor
    """Of the matrices: (n*n, M)."""
    layer_scale: Tensor
    """Partial sums: (tiles, C), or no rows where there is no LayerScale."""


def backward(
    d_streams: Tensor,
    d_normed: Tensor,
    d_rest: Tensor,
    made: Made,
    streams: Tensor,
    merge: Merge,
    connection: Connection,
    norm: Norm,
) -> Gradients:
    """From the gradients of X', y and the logits after the first n, (k - n, M)."""
    num_tokens, n, _ = made.streams.shape
    of_norm = _read_norm_backward(d_normed, made, norm)
    of_merge = _merge_backward(d_streams, d_normed, d_rest, of_norm, made, streams, merge, connection, norm)
    maps = (of_merge.res, merge.logits[n:], of_merge.logits[n:])
    launch_sinkhorn.vectors_backward(*maps, merge.num_iters, num_tokens, n, (1, num_tokens))
    d_weight, d_scale, d_bias = launch_logits.parameters_backward(
        d_rest, made.inverse_rms, made.streams, connection.weight, connection.scale, of_norm.pre
    )
    layer_scale = norm.weight if merge.layer_scale is None else merge.layer_scale
    return Gradients(
        of_merge.streams,
        of_merge.output,
        of_merge.logits,
        of_merge.layer_scale.sum(0).to(layer_scale.dtype),
        d_weight,
        d_scale,
        d_bias.to(connection.bias.dtype),
        of_norm.parameters[:, 0].sum(0).to(norm.weight.dtype),
        of_norm.parameters[:, 1].sum(0).to(norm.bias.dtype),
    )


def _read_norm_backward(d_normed: Tensor, made: Made, norm: Norm) -> _NormGradients:
    num_tokens, n, dim = made.streams.shape
    blocks = tile("boundary_norm_backward", n)
    tiles = triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"])
    found = _NormGradients(
        torch.empty_like(made.logits[:n]),
        torch.empty_like(made.mean),
        torch.empty_like(made.mean),
        made.mean.new_empty(tiles, 2, dim),
    )
    read_norm_backward_kernel[(tiles,)](
        d_normed,
        made.streams,
        made.logits,
        made.mean,
        made.rstd,
        norm.weight,
        *found,
        num_tokens,
        dim,
        NUM_STREAMS=n,
        **blocks,
    )
    return found


def _merge_backward(
    d_streams: Tensor,
    d_normed: Tensor,
    d_rest: Tensor,
    of_norm: _NormGradients,
    made: Made,
    streams: Tensor,
    merge: Merge,
    connection: Connection,
    norm: Norm,
) -> _MergeGradients:
    num_tokens, n, dim = made.streams.shape
    projection = launch_logits.prepare(connection.weight, streams.dtype)
    blocks = tile("boundary_backward", n)
    tiles = triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"])
    found = _MergeGradients(
        torch.empty_like(streams),
        torch.empty_like(merge.output),
        torch.empty_like(merge.logits),
        torch.empty_like(merge.logits[n:]),
        made.mean.new_empty(0 if merge.layer_scale is None else tiles, dim),
    )
    merge_backward_kernel[(tiles,)](
        d_streams,
        streams,
        merge.output,
        merge.logits,
        merge.layer_scale,
        merge.keep,
        d_normed,
        norm.weight,
        made.mean,
        made.rstd,
        of_norm.mean,
        of_norm.along,
        made.logits,
        of_norm.pre,
        d_rest,
        made.inverse_rms,
        connection.scale,
        connection.bias,
        projection.phi,
        *found,
        num_tokens,
        dim,
        *_strides(streams, n),
        _tokens_per_sample(merge),
        projection.num_logits,
        merge.num_iters,
        NUM_STREAMS=n,
        ENTRY=streams.dim() == 2,
        **projection.options,
        **_scaling(merge),
        **blocks,
    )
    return found


def replay(streams: Tensor, num_streams: int, merge: Merge) -> Tensor:
    """Streams (M, n, C), or (M, C) for equal ones -> X', (M, n, C)."""
    num_tokens, dim = merge.output.shape
    merged = streams.new_empty(num_tokens, num_streams, dim)
    blocks = tile("boundary_replay", num_streams)
    replay_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        streams,
        merge.output,
        merge.logits,
        merge.layer_scale,
        merge.keep,
        merged,
        num_tokens,
        dim,
        *_strides(streams, num_streams),
        _tokens_per_sample(merge),
        merge.num_iters,
        NUM_STREAMS=num_streams,
        **_scaling(merge),
        **blocks,
    )
    return merged


def _strides(streams: Tensor, num_streams: int) -> tuple[int, int]:
    """From token to token and from stream to stream; equal streams are stored as one, (M, C)."""
    dim = streams.shape[-1]
    return (dim, 0) if streams.dim() == 2 else (num_streams * dim, dim)


def _tokens_per_sample(merge: Merge) -> int:
    """N; any number where DropPath has no factors."""
    return 1 if merge.keep is None else len(merge.output) // len(merge.keep)


def _scaling(merge: Merge) -> dict[str, bool]:
    """Compile-time arguments of the kernels that scale the branch."""
    return {"GAMMA": merge.layer_scale is not None, "KEEP": merge.keep is not None}
