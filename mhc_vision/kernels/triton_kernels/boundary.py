"""Launches of the layer boundary, forward and backward."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from mhc_vision.kernels.triton_kernels import logits as logits_kernels
from mhc_vision.kernels.triton_kernels import sinkhorn
from mhc_vision.kernels.triton_kernels.boundary_backward import merge_backward_kernel, read_norm_backward_kernel
from mhc_vision.kernels.triton_kernels.boundary_forward import merge_logits_kernel, read_norm_kernel
from mhc_vision.kernels.triton_kernels.tiles import tile


class Connection(NamedTuple):
    """Parameters of the next connection: φᵀ (k, n*C), scale (k,), bias (k,)."""

    weight: Tensor
    scale: Tensor
    bias: Tensor


class Norm(NamedTuple):
    """Parameters of the next LayerNorm, (C,) each."""

    weight: Tensor
    bias: Tensor


class Branch(NamedTuple):
    """Output of the branch (M, C), its LayerScale (C,) and its DropPath factors, one a sample, or None."""

    output: Tensor
    layer_scale: Tensor | None
    keep: Tensor | None
    tokens_per_sample: int

    @property
    def options(self) -> dict[str, bool]:
        """Compile-time arguments of the kernels that scale it."""
        return {"GAMMA": self.layer_scale is not None, "KEEP": self.keep is not None}


class Made(NamedTuple):
    """What a boundary makes and its backward needs: streams (M, n, C), logits (k, M), and three (M,)."""

    streams: Tensor
    logits: Tensor
    inverse_rms: Tensor
    mean: Tensor
    rstd: Tensor


class Gradients(NamedTuple):
    """Gradients, in the order of the arguments; of parameters in their dtypes, of logits (n + n*n, M) in fp32."""

    streams: Tensor
    output: Tensor
    logits: Tensor
    layer_scale: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


def _sizes(streams: Tensor, connection: Connection) -> tuple[int, int, int, tuple[int, int]]:
    """M, n, C and the strides of a token and of a stream; equal streams are given as one, (M, C)."""
    dim = streams.shape[-1]
    n = connection.weight.shape[1] // dim
    return len(streams), n, dim, (dim, 0) if streams.dim() == 2 else (n * dim, dim)


def forward(
    streams: Tensor,
    branch: Branch,
    logits: Tensor,
    connection: Connection,
    norm: Norm,
    num_iters: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Made]:
    """(M, n, C) or (M, C), branch, logits (n + n*n, M), contiguous -> normed input of the branch (M, C), and more."""
    num_tokens, n, dim, strides = _sizes(streams, connection)
    num_logits = len(connection.bias)
    projection = logits_kernels.prepare(connection.weight, streams.dtype)
    normed = streams.new_empty(num_tokens, dim)
    made = Made(
        streams.new_empty(num_tokens, n, dim),
        *(streams.new_empty(*shape, dtype=torch.float32) for shape in ((num_logits, num_tokens), *[(num_tokens,)] * 3)),
    )
    blocks = tile("boundary", n)
    merge_logits_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        streams,
        branch.output,
        logits,
        branch.layer_scale,
        branch.keep,
        projection.phi,
        connection.scale,
        connection.bias,
        made.streams,
        made.logits,
        made.inverse_rms,
        num_tokens,
        dim,
        *strides,
        branch.tokens_per_sample,
        num_logits,
        num_iters,
        eps,
        NUM_STREAMS=n,
        **projection.options,
        **branch.options,
        **blocks,
    )
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
        norm_eps,
        DIM=dim,
        NUM_STREAMS=n,
        **blocks,
    )
    return normed, made


def backward(
    d_streams: Tensor,
    d_normed: Tensor,
    d_rest: Tensor,
    streams: Tensor,
    branch: Branch,
    logits: Tensor,
    connection: Connection,
    norm: Norm,
    made: Made,
    num_iters: int,
) -> Gradients:
    """From the gradients of the streams, the normed input and the logits behind the first n, (k - n, M)."""
    num_tokens, n, dim, strides = _sizes(streams, connection)
    num_logits = len(connection.bias)
    d_pre = torch.empty_like(made.logits[:n])
    d_mean, d_along = torch.empty_like(made.mean), torch.empty_like(made.mean)
    blocks = tile("boundary_norm_backward", n)
    tiles = triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"])
    d_norm = d_pre.new_empty(tiles, 2, dim)
    read_norm_backward_kernel[(tiles,)](
        d_normed,
        made.streams,
        made.logits,
        made.mean,
        made.rstd,
        norm.weight,
        d_pre,
        d_mean,
        d_along,
        d_norm,
        num_tokens,
        dim,
        NUM_STREAMS=n,
        **blocks,
    )
    projection = logits_kernels.prepare(connection.weight, streams.dtype)
    d_x, d_output, d_logits = torch.empty_like(streams), torch.empty_like(branch.output), torch.empty_like(logits)
    d_res = torch.empty_like(logits[n:])
    blocks = tile("boundary_backward", n)
    tiles = triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"])
    d_layer_scale = d_pre.new_empty(tiles if branch.layer_scale is not None else 0, dim)
    merge_backward_kernel[(tiles,)](
        d_streams,
        streams,
        branch.output,
        logits,
        branch.layer_scale,
        branch.keep,
        d_normed,
        norm.weight,
        made.mean,
        made.rstd,
        d_mean,
        d_along,
        made.logits,
        d_pre,
        d_rest,
        made.inverse_rms,
        connection.scale,
        connection.bias,
        projection.phi,
        d_x,
        d_output,
        d_logits,
        d_res,
        d_layer_scale,
        num_tokens,
        dim,
        *strides,
        branch.tokens_per_sample,
        num_logits,
        num_iters,
        NUM_STREAMS=n,
        ENTRY=streams.dim() == 2,
        **projection.options,
        **branch.options,
        **blocks,
    )
    sinkhorn.launch_backward(d_res, logits[n:], d_logits[n:], num_iters, num_tokens, n, (1, num_tokens))
    d_weight, d_scale, d_bias = logits_kernels.parameters_backward(
        d_rest, made.inverse_rms, made.streams, connection.weight, connection.scale, d_pre
    )
    d_norm_weight, d_norm_bias = d_norm[:, 0].sum(0), d_norm[:, 1].sum(0)
    return Gradients(
        d_x,
        d_output,
        d_logits,
        d_layer_scale.sum(0).to(norm.weight.dtype if branch.layer_scale is None else branch.layer_scale.dtype),
        d_weight,
        d_scale,
        d_bias.to(connection.bias.dtype),
        d_norm_weight.to(norm.weight.dtype),
        d_norm_bias.to(norm.bias.dtype),
    )
