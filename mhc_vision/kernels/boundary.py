"""Boundary: from one branch to the next in one op, as the models run it where the Triton kernels do.

It has no plain form: without the kernels, the models take the steps one by one.
"""

from typing import Any, cast

from torch import Tensor

from mhc_vision.kernels.backend import TRITON_DTYPES, can_launch
from mhc_vision.kernels.boundary_arguments import LEARNED, Connection, Merge, Merged, Norm, Past, flatten_arguments
from mhc_vision.kernels.checks import MAX_FUSED_STREAMS, check_eps, check_floating, check_num_iters, check_shape
from mhc_vision.kernels.custom_ops.boundary import Boundary
from mhc_vision.kernels.prepared_phi import prepare_phi
from mhc_vision.kernels.weight_gradients import hold

__all__ = ["Connection", "Merge", "Merged", "Norm", "Past", "boundary"]


def boundary(
    streams: Tensor, merge: Merge, connection: Connection, norm: Norm, past: Past | None = None, save: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merge a branch into the streams, make the logits of the next connection, read, and norm what was read.

    With f = keep · layer_scale · output, post = 2σ and res = Sinkhorn-Knopp of the given logits,
    X' = res · X + postᵀ f; then the logits of X' as in `stream_logits`, u = σ(the first n of them) · X' and
    y = LayerNorm(u), or its RMS norm (mHC, arXiv 2512.24880, Eq. 3, 7-9, 14-19). Without logits of `res`, it is the
    identity, and nothing is mixed. The maps, n + n*n or n numbers a token, are kept for the backward pass.

    Args:
        streams: X, (B, N, n, C), or (B, N, C) for n equal streams. bf16, fp16 or fp32; n from 1 to 4; C % 8 = 0.
        merge: what the last branch returned, and how to merge it.
        connection: parameters of the next connection.
        norm: parameters of the next LayerNorm or RMS norm.
        past: how `streams` came about. If given, they are not kept; the backward pass recomputes them, bit for bit.
        save: whether to keep X' for the backward pass, which otherwise recomputes it from the streams.

    Returns:
        X', (B, N, n, C), in the dtype of the streams; y, (B, N, C), in that of the output; the logits of the next
        connection after its first n, (n + n*n, B*N), or (n, B*N) where its `res` is the identity, fp32; the maps of
        this merge, for `Merged`, without gradient.

    Raises:
        ValueError: shapes, dtypes or devices that the kernels do not take or that do not belong together.
    """
    _check_arguments(streams, merge, connection, norm)
    if connection.phi is None:
        n = connection.weight.shape[1] // streams.shape[-1]
        connection = connection._replace(phi=prepare_phi([connection.weight], n, streams.dtype)[0])
    flat = flatten_arguments(streams, merge, connection, norm, None if past is None else _detached(past))
    parameters, held = hold(merge.output, *flat[LEARNED])
    flat = *flat[: LEARNED.start], *parameters, *flat[LEARNED.stop :]
    return cast(tuple[Tensor, Tensor, Tensor, Tensor], Boundary.apply(save, held, *flat))


def _check_arguments(streams: Tensor, merge: Merge, connection: Connection, norm: Norm) -> None:
    check_num_iters(merge.num_iters, "merge.num_iters")
    check_eps(connection.eps, "connection.eps")
    check_eps(norm.eps, "norm.eps")
    n = _check_streams(streams, connection.weight)
    batch, num_tokens, dim = streams.shape[0], streams.shape[1], streams.shape[-1]
    num_maps, num_logits = _rows(merge.logits, n, n), _rows(connection.weight, 2 * n, n)
    check_shape(merge.output, "merge.output", streams, (batch, num_tokens, dim))
    check_shape(merge.logits, "merge.logits", streams, (num_maps, batch * num_tokens))
    check_shape(connection.weight, "connection.weight", streams, (num_logits, n * dim))
    check_shape(connection.scale, "connection.scale", streams, (num_logits,))
    check_shape(connection.bias, "connection.bias", streams, (num_logits,))
    check_shape(norm.weight, "norm.weight", streams, (dim,))
    if norm.bias is not None:
        check_shape(norm.bias, "norm.bias", streams, (dim,))
    if merge.layer_scale is not None:
        check_shape(merge.layer_scale, "merge.layer_scale", streams, (dim,))
    if merge.keep is not None:
        check_shape(merge.keep, "merge.keep", streams, (batch,))


def _rows(given: Tensor, sigmoids: int, n: int) -> int:
    """Rows of logits that are expected of what was given: with those of `res`, unless it has none of them."""
    return sigmoids if given.shape[:1] == (sigmoids,) else sigmoids + n * n


def _check_streams(streams: Tensor, weight: Tensor) -> int:
    """The number of streams n, or a ValueError where no kernel takes them."""
    check_floating(streams, "streams")
    shape = tuple(streams.shape)
    if len(shape) not in (3, 4) or 0 in shape or shape[-1] % 8:
        raise ValueError(f"streams: got shape {shape}, expected (B, N, n, C) or (B, N, C), no 0 in it, C % 8 = 0")
    if streams.dtype not in TRITON_DTYPES:
        raise ValueError(f"streams: got dtype {streams.dtype}, expected fp16, bf16 or fp32")
    if not can_launch(streams):
        raise ValueError(f"streams: got device {streams.device}, expected a GPU, where Triton kernels run")
    n = shape[2] if len(shape) == 4 else weight.shape[-1] // shape[-1]
    if not 1 <= n <= MAX_FUSED_STREAMS:
        raise ValueError(f"streams: got n = {n}, expected 1 to {MAX_FUSED_STREAMS}")
    return n


def _detached(past: Past) -> Past:
    """No gradient flows through the past."""
    merges = (Merged(*map(_detached_tensor, merge)) for merge in past.merges)
    return Past(past.streams.detach(), tuple(merges))


def _detached_tensor(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach()
