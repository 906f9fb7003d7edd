"""Launches of the layer boundary: forward, backward, and its merge alone. All tensors are contiguous.

Tokens are B samples of N each, in the shapes of streams and outputs, or M of them, in those of side data.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mhc_vision.kernels.boundary_arguments import LEARNED, Connection, Gradients, Made, Merge, Merged, Norm
from mhc_vision.kernels.prepared_phi import phi_to_weight
from mhc_vision.kernels.triton_kernels import merge as launch_merge
from mhc_vision.kernels.triton_kernels import sinkhorn
from mhc_vision.kernels.triton_kernels.boundary.backward import parameters_backward_kernel, streams_backward_kernel
from mhc_vision.kernels.triton_kernels.boundary.forward import forward_kernel
from mhc_vision.kernels.triton_kernels.precision import fence, precision
from mhc_vision.kernels.triton_kernels.tiles import in_thread, num_tiles, tile, token_splits


def forward(streams: Tensor, merge: Merge, connection: Connection, norm: Norm) -> tuple[Tensor, Made]:
    """Streams (B, N, n, C), or (B, N, C) for equal ones -> y, the normed input of the next branch, and more."""
    made = Made.empty(streams, merge, connection)
    # branches take what branches make
    normed = torch.empty_like(merge.output)
    num_tokens, n, dim = _sizes(made)
    options = _merging_options("boundary", streams.dtype, n, dim, connection.phi.shape)
    forward_kernel[(num_tiles(num_tokens, options["BLOCK_TOKENS"]),)](
        streams,
        merge.output,
        merge.logits,
        merge.layer_scale,
        merge.keep,
        connection.phi,
        connection.scale,
        connection.bias,
        norm.weight,
        norm.bias,
        made.streams,
        made.maps,
        made.logits,
        made.statistics,
        normed,
        num_tokens,
        dim,
        *_strides(streams, merge.output, n),
        launch_merge.tokens_per_sample(merge.keep, num_tokens),
        len(connection.scale),
        merge.num_iters,
        connection.eps,
        norm.eps,
        NORM=_kind(norm),
        **_merging(merge, n),
        **options,
    )
    return normed, made


class _TokenGradients(NamedTuple):
    """What the backward pass makes of each token."""

    streams: Tensor
    output: Tensor
    logits: Tensor
    """Rows of `post` are gradients of logits, those of `res` of matrices."""
    pre: Tensor
    """Of the first n logits that were made: (n, M)."""
    layer_scale: Tensor
    """Partial sums: (tiles, C), or no rows where there is no LayerScale."""


def backward(
    d_streams: Tensor,
    d_normed: Tensor,
    d_rest: Tensor,
    made: Made,
    learned: bool,
    streams: Tensor,
    merge: Merge,
    connection: Connection,
    norm: Norm,
) -> Gradients:
    """From the gradients of X', y and the logits after the first n, (k - n, M); see `Gradients.empty` for `learned`."""
    num_tokens, n, _ = _sizes(made)
    found = _streams_backward(d_streams, d_normed, d_rest, made, streams, merge, connection, norm)
    if len(merge.logits) > n:
        # each entry is read before it is written
        sinkhorn.backward_into(
            found.logits[n:], found.logits[n:], merge.logits[n:], merge.num_iters, num_tokens, n, (1, num_tokens)
        )
    layer_scale = norm.weight if merge.layer_scale is None else merge.layer_scale
    return Gradients(
        found.streams,
        found.output,
        found.logits,
        found.layer_scale.sum(0).to(layer_scale.dtype),
        *(
            _parameters_backward(found.pre, d_rest, d_normed, made, connection, norm)
            if learned
            else Gradients.empty(streams, merge, connection, norm, learned)[LEARNED]
        ),
    )


def _streams_backward(
    d_streams: Tensor,
    d_normed: Tensor,
    d_rest: Tensor,
    made: Made,
    streams: Tensor,
    merge: Merge,
    connection: Connection,
    norm: Norm,
) -> _TokenGradients:
    num_tokens, n, dim = _sizes(made)
    options = _merging_options("boundary_streams_backward", streams.dtype, n, dim, connection.phi.shape)
    tiles = num_tiles(num_tokens, options["BLOCK_TOKENS"])
    found = _TokenGradients(
        torch.empty_like(streams),
        torch.empty_like(merge.output),
        torch.empty_like(merge.logits),
        torch.empty_like(made.logits[:n]),
        made.logits.new_empty(0 if merge.layer_scale is None else tiles, dim),
    )
    streams_backward_kernel[(tiles,)](
        d_streams,
        d_normed,
        d_rest,
        streams,
        merge.output,
        merge.layer_scale,
        merge.keep,
        made.maps,
        made.logits,
        made.statistics,
        connection.phi,
        connection.scale,
        connection.bias,
        norm.weight,
        *found,
        num_tokens,
        dim,
        *_strides(streams, merge.output, n),
        launch_merge.tokens_per_sample(merge.keep, num_tokens),
        len(connection.scale),
        NORM=_kind(norm),
        ENTRY=streams.dim() == merge.output.dim(),
        **_merging(merge, n),
        **options,
    )
    return found


def _parameters_backward(
    d_pre: Tensor, d_rest: Tensor, d_normed: Tensor, made: Made, connection: Connection, norm: Norm
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of weight, scale and bias of the connection, and of weight and bias of the norm."""
    num_tokens, n, dim = _sizes(made)
    num_logits, padded = len(connection.scale), connection.phi.shape[-1]
    options = _options("boundary_parameters_backward", made.streams.dtype, n, dim, connection.phi.shape)
    splits, tokens_per_split = token_splits(num_tokens, options["BLOCK_TOKENS"])
    d_phi = made.logits.new_empty(splits, *connection.phi.shape[1:])
    d_norm = made.logits.new_empty(splits, 2, dim)
    d_bias = made.logits.new_empty(splits, padded)
    parameters_backward_kernel[(num_tiles(dim, options["BLOCK_CHANNELS"]), splits)](
        d_pre,
        d_rest,
        d_normed,
        made.streams,
        made.logits,
        made.statistics,
        d_phi,
        d_norm,
        d_bias,
        num_tokens,
        dim,
        num_logits,
        tokens_per_split,
        **options,
    )
    unscaled = phi_to_weight(d_phi.sum(0), num_logits, n)
    return (
        (unscaled * connection.scale.unsqueeze(-1)).to(connection.weight.dtype),
        (unscaled * connection.weight).sum(1).to(connection.scale.dtype),
        d_bias.sum(0)[:num_logits].to(connection.bias.dtype),
        d_norm[:, 0].sum(0).to(norm.weight.dtype),
        norm.weight.new_empty(0) if norm.bias is None else d_norm[:, 1].sum(0).to(norm.bias.dtype),
    )


def replay(streams: Tensor, num_streams: int, merged: Merged) -> Tensor:
    """Streams (B, N, n, C), or (B, N, C) for equal ones -> X', (B, N, n, C)."""
    *batch_and_tokens, dim = merged.output.shape
    n, maps = num_streams, merged.maps.t()
    x = streams.view(len(maps), -1, dim).expand(-1, n, -1)
    res = maps[:, n:].unflatten(1, (n, n)) if len(merged.maps) > n else None
    made = launch_merge.forward(x, merged.output, res, maps[:, :n], None, merged.layer_scale, merged.keep)
    return made.view(*batch_and_tokens, n, dim)


def _sizes(made: Made) -> tuple[int, int, int]:
    """M, n, C."""
    return made.logits.shape[1], *made.streams.shape[-2:]


def _strides(streams: Tensor, output: Tensor, num_streams: int) -> tuple[int, int]:
    """From token to token and from stream to stream; equal streams are stored as one, (B, N, C)."""
    dim = streams.shape[-1]
    return (dim, 0) if streams.dim() == output.dim() else (num_streams * dim, dim)


def _kind(norm: Norm) -> str:
    """The compile-time argument that names the norm."""
    return "rms" if norm.rms else "layer"


def _merging(merge: Merge, num_streams: int) -> dict[str, bool]:
    """Compile-time arguments of the kernels that merge."""
    scaling = {"GAMMA": merge.layer_scale is not None, "KEEP": merge.keep is not None}
    return {"MIX": len(merge.logits) > num_streams, **scaling}


@functools.cache
def _options(kernel: str, dtype: torch.dtype, num_streams: int, dim: int, phi: torch.Size) -> dict[str, Any]:
    """Tile and compile-time arguments of a kernel that multiplies streams of this dtype with φ of this shape."""
    blocks = tile(kernel, num_streams, dtype)
    parts, rows, padded = phi
    return {
        "NUM_STREAMS": num_streams,
        "PADDED_STREAMS": rows // dim,
        "PADDED_LOGITS": padded,
        "SPLIT": parts == 2,
        "PRECISION": precision(dtype),
        "MASKED": dim % blocks["BLOCK_CHANNELS"] != 0,
        **blocks,
    }


@functools.cache
def _merging_options(kernel: str, dtype: torch.dtype, num_streams: int, dim: int, phi: torch.Size) -> dict[str, Any]:
    """As `_options`, of a kernel that also makes X'."""
    options = _options(kernel, dtype, num_streams, dim, phi)
    return {"FENCE": fence(dtype), "IN_THREAD": in_thread(options), **options}
