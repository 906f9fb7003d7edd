"""Launches of the layer boundary: forward, backward, its merge alone, and what it does without a merge and a norm.

All tensors are contiguous. Tokens are B samples of N each, in the shapes of streams and outputs, or M of them, in those
of side data.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mhc_vision.kernels.boundary_arguments import Connection, Gradients, Made, Merge, Merged, Norm
from mhc_vision.kernels.triton_kernels import merge as launch_merge
from mhc_vision.kernels.triton_kernels.boundary.backward import streams_backward_kernel
from mhc_vision.kernels.triton_kernels.boundary.forward import forward_kernel
from mhc_vision.kernels.triton_kernels.boundary.sums import sums_backward_kernel
from mhc_vision.kernels.triton_kernels.precision import fence, precision
from mhc_vision.kernels.triton_kernels.tiles import in_thread, num_threads, num_tiles, tile, token_splits

NO_MERGE: Any = Merge(None, None)  # type: ignore[arg-type]
NO_NORM: Any = Norm(None)  # type: ignore[arg-type]


def forward(streams: Tensor, merge: Merge, connection: Connection, norm: Norm) -> tuple[Tensor, Made]:
    """Streams (B, N, n, C), or (B, N, C) for equal ones -> y, the normed input of the next branch, and more."""
    made = Made.empty(streams, merge, connection)
    # branches take what branches make
    normed = torch.empty_like(merge.output)
    _forward(streams, merge, connection, norm, made, normed)
    return normed, made


def branch_input(
    streams: Tensor, connection: Connection, read: bool, dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Streams (M, n, C) -> what the branch reads, (M, C), if it is to; logits (k, M) and inverse RMS (M,), fp32."""
    num_tokens, _, dim = streams.shape
    tokens = streams.new_empty(num_tokens, dim, dtype=dtype) if read else None
    logits = streams.new_empty(len(connection.scale), num_tokens, dtype=torch.float32)
    made = Made(streams, logits, logits.new_empty(num_tokens), None)  # type: ignore[arg-type]
    _forward(streams, NO_MERGE, connection, NO_NORM, made, tokens)
    return tokens, logits, made.statistics


def _forward(
    streams: Tensor, merge: Merge, connection: Connection, norm: Norm, made: Made, normed: Tensor | None
) -> None:
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
        *_strides(streams, made),
        launch_merge.tokens_per_sample(merge.keep, num_tokens),
        len(connection.scale),
        merge.num_iters,
        connection.eps,
        norm.eps,
        **_cases(merge, norm, n),
        **options,
    )


class _TokenGradients(NamedTuple):
    """What the backward pass makes of each token."""

    streams: Tensor
    output: Tensor | None
    logits: Tensor | None
    """Rows of `post` are gradients of logits, those of `res` of matrices."""
    pre: Tensor | None
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
    found = _streams_backward(d_streams, d_normed, d_rest, made, streams, merge, connection, norm)
    scale, others = _sums_backward(found, d_normed, d_rest, made, learned, merge, connection)
    layer_scale = found.layer_scale.new_empty(0) if merge.layer_scale is None else found.layer_scale.sum(0)
    return Gradients(found.streams, found.output, found.logits, layer_scale, scale, others, found.pre)


def parameter_sums(
    d_pre: Tensor, d_normed: Tensor | None, d_rest: Tensor, made: Made, connection: Connection
) -> tuple[Tensor, Tensor]:
    """Gradients of scale and of others, as in `Gradients`, from what `backward` has made if they were not `learned`."""
    found: Any = _TokenGradients(None, None, None, d_pre, None)  # type: ignore[arg-type]
    return _sums_backward(found, d_normed, d_rest, made, True, NO_MERGE, connection)


def branch_input_backward(
    d_tokens: Tensor | None,
    d_handed_on: Tensor | None,
    d_rest: Tensor,
    logits: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    connection: Connection,
    learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of streams, of scale, and of weight and bias side by side, those without elements unless `learned`.

    Last, that of the logits of `pre`, where there is one. `d_rest` is of the logits after the first n, (k - n, M), or
    of all, (k, M), where nothing was read.
    """
    made = Made(streams, logits, inverse_rms, None)  # type: ignore[arg-type]
    found = _streams_backward(d_handed_on, d_tokens, d_rest, made, streams, NO_MERGE, connection, NO_NORM)
    return found.streams, *_sums_backward(found, None, d_rest, made, learned, NO_MERGE, connection), found.pre


def _streams_backward(
    d_streams: Tensor | None,
    d_normed: Tensor | None,
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
        _empty_like(merge.output),
        _empty_like(merge.logits),
        None if d_normed is None else made.logits.new_empty(n, num_tokens),
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
        *_strides(streams, made),
        launch_merge.tokens_per_sample(merge.keep, num_tokens),
        len(connection.scale),
        ENTRY=_equal_streams(streams, made),
        **_cases(merge, norm, n),
        **options,
    )
    return found


def _sums_backward(
    found: _TokenGradients,
    d_normed: Tensor | None,
    d_rest: Tensor,
    made: Made,
    learned: bool,
    merge: Merge,
    connection: Connection,
) -> tuple[Tensor, Tensor]:
    """The last two fields of `Gradients`; gradients of matrices that were `found` become those of logits.

    Without a gradient of what was normed, there are none of the norm.
    """
    num_tokens, n, dim = _sizes(made)
    num_logits = len(connection.scale)
    options = _options("boundary_sums_backward", made.streams.dtype, n, dim, connection.phi.shape)
    tiles, matrices = num_tiles(dim, options["BLOCK_CHANNELS"]), num_threads(options["num_warps"])
    sinkhorn_rows = num_tiles(num_tokens, tiles * matrices) if _mixes(merge, n) else 0
    splits, tokens_per_split = token_splits(num_tokens, options["BLOCK_TOKENS"]) if learned else (0, 0)
    size = num_logits * n * dim + (0 if d_normed is None else 2 * dim) + num_logits
    others = made.logits.new_empty(splits, size)
    scale = made.logits.new_empty(splits * tiles, num_logits)
    if sinkhorn_rows + splits:
        sums_backward_kernel[(tiles, sinkhorn_rows + splits)](
            found.logits,
            merge.logits,
            made.logits.new_empty(sinkhorn_rows * tiles, merge.num_iters, n, matrices),
            found.pre,
            d_rest,
            d_normed,
            made.streams,
            made.logits,
            made.statistics,
            connection.phi,
            connection.scale,
            others,
            scale,
            num_tokens,
            merge.num_iters,
            sinkhorn_rows,
            dim,
            num_logits,
            tokens_per_split,
            BLOCK_MATRICES=matrices,
            **options,
        )
    if not learned:
        return scale.new_empty(0), others.new_empty(0)
    return scale.sum(0), others.sum(0)


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


def _empty_like(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.empty_like(tensor)


def _equal_streams(streams: Tensor, made: Made) -> bool:
    """Whether the streams are stored as one, (B, N, C)."""
    return streams.dim() < made.streams.dim()


def _strides(streams: Tensor, made: Made) -> tuple[int, int]:
    """From token to token and from stream to stream."""
    _, n, dim = _sizes(made)
    return (dim, 0) if _equal_streams(streams, made) else (n * dim, dim)


def _mixes(merge: Merge, num_streams: int) -> bool:
    """Whether there is a `res` that is not the identity."""
    return merge.logits is not None and len(merge.logits) > num_streams


def _cases(merge: Merge, norm: Norm, num_streams: int) -> dict[str, Any]:
    """Compile-time arguments that say what a kernel of tokens does."""
    return {
        "NORM": "none" if norm.weight is None else "rms" if norm.rms else "layer",
        "MIX": _mixes(merge, num_streams),
    }


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
