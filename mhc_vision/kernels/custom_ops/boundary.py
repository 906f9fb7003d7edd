"""The layer boundary with Triton: `mhc_vision::boundary`, its gradient, and its merge alone, `boundary_replay`.

`boundary` and `boundary_backward` take the flat arguments of `boundary_arguments`, as op schemas know no NamedTuples.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mhc_vision.kernels.boundary_arguments import (
    FLAT_SCHEMA,
    LEARNED,
    NUM_GIVEN,
    NUM_TENSORS,
    Connection,
    Gradients,
    Made,
    Merge,
    Merged,
    flatten_parameters,
    unflatten_arguments,
)
from mhc_vision.kernels.custom_ops.definition import define_op
from mhc_vision.kernels.weight_gradients import Held


@functools.cache
def _launch() -> Any:
    """The module, which needs Triton."""
    from mhc_vision.kernels.triton_kernels.boundary import launch

    return launch


def _tensors(count: int) -> str:
    """The schema of `count` results."""
    return f"({', '.join(['Tensor'] * count)})"


@define_op("boundary", f"({FLAT_SCHEMA}) -> {_tensors(1 + len(Made._fields))}")
def boundary(*flat: Any) -> tuple[Tensor, ...]:
    """Flat arguments, contiguous -> y, the normed input of the next branch, (B, N, C), and the fields of `Made`."""
    streams, merge, connection, norm, _ = unflatten_arguments(flat)
    normed, made = _launch().forward(streams, merge, connection, norm)
    return normed, *made


@torch.library.register_fake("mhc_vision::boundary")
def _(*flat: Any) -> tuple[Tensor, ...]:
    streams, merge, connection, *_ = unflatten_arguments(flat)
    return torch.empty_like(merge.output), *Made.empty(streams, merge, connection)


@define_op(
    "boundary_backward",
    f"(Tensor d_streams, Tensor d_normed, Tensor d_rest, Tensor[] made, bool learned, {FLAT_SCHEMA}) -> "
    + _tensors(len(Gradients._fields)),
)
def boundary_backward(
    d_streams: Tensor, d_normed: Tensor, d_rest: Tensor, made: list[Tensor], learned: bool, *flat: Any
) -> Gradients:
    """Gradients of the flat arguments from those of X', y and the logits after the first n, (k - n, M).

    Those of the parameters of connection and norm, which cost a pass over the streams, are made if they are `learned`.
    """
    streams, merge, connection, norm, _ = unflatten_arguments(flat)
    return _launch().backward(d_streams, d_normed, d_rest, Made(*made), learned, streams, merge, connection, norm)


@torch.library.register_fake("mhc_vision::boundary_backward")
def _(d_streams: Tensor, d_normed: Tensor, d_rest: Tensor, made: list[Tensor], learned: bool, *flat: Any) -> Gradients:
    streams, merge, connection, *_ = unflatten_arguments(flat)
    return Gradients.empty(streams, merge, connection, learned)


@define_op(
    "parameter_sums",
    "(Tensor d_pre, Tensor? d_normed, Tensor d_rest, Tensor merged, Tensor logits, Tensor statistics, Tensor scale, "
    f"Tensor phi) -> {_tensors(2)}",
)
def parameter_sums(
    d_pre: Tensor,
    d_normed: Tensor | None,
    d_rest: Tensor,
    merged: Tensor,
    logits: Tensor,
    statistics: Tensor,
    scale: Tensor,
    phi: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of parameters by themselves: `scale` and `others` of `Gradients`, without the norm's if none was.

    From those that the backward pass of `boundary` or `branch_input` was given and has made, `d_pre`, (n, M); from X',
    (..., n, C), and the other fields of `Made`; and from the connection's parameters.
    """
    made = Made(merged, logits, statistics, None)  # type: ignore[arg-type]
    connection = Connection(None, scale, None, phi=phi)  # type: ignore[arg-type]
    return _launch().parameter_sums(d_pre, d_normed, d_rest, made, connection)


@torch.library.register_fake("mhc_vision::parameter_sums")
def _(d_pre: Tensor, d_normed: Tensor | None, d_rest: Tensor, merged: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
    *_, scale, _phi = given
    (n, dim), k = merged.shape[-2:], len(scale)
    size = k * n * dim + (0 if d_normed is None else 2 * dim) + k
    return d_pre.new_empty(k), d_pre.new_empty(size)


@define_op(
    "boundary_replay",
    "(Tensor streams, SymInt num_streams, Tensor output, Tensor maps, Tensor? layer_scale, Tensor? keep) -> Tensor",
)
def boundary_replay(
    streams: Tensor, num_streams: int, output: Tensor, maps: Tensor, layer_scale: Tensor | None, keep: Tensor | None
) -> Tensor:
    """Streams, n, the fields of `Merged` -> X', (B, N, n, C), with the bits that `boundary` gave it."""
    return _launch().replay(streams, num_streams, Merged(output, maps, layer_scale, keep))


@torch.library.register_fake("mhc_vision::boundary_replay")
def _(streams: Tensor, num_streams: int, output: Tensor, *_: Any) -> Tensor:
    *batch_and_tokens, dim = output.shape
    return streams.new_empty(*batch_and_tokens, num_streams, dim)


class Boundary(torch.autograd.Function):
    """Saves its arguments, X', which the next boundary keeps anyway, and side data of each token.

    Of streams with a past it saves the past instead, which the boundaries before keep anyway.
    """

    @staticmethod
    def forward(ctx: Any, save: bool, held: Held | None, *flat: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Whether to save X', parameters held, and the flat arguments -> X', y, the logits after the first n, maps."""
        ctx.held = held
        contiguous = [value.contiguous() if isinstance(value, Tensor) else value for value in flat]
        given, past = contiguous[:NUM_GIVEN], contiguous[NUM_GIVEN:]
        normed, merged, logits, statistics, maps = boundary(*given)
        ctx.numbers = given[NUM_TENSORS:]
        streams, *others = given[:NUM_TENSORS]
        made = merged if save else None, logits, statistics, maps
        ctx.save_for_backward(None if past else streams, *others, *made, *past)
        ctx.mark_non_differentiable(maps)
        # else autograd would make zeros for the maps
        ctx.set_materialize_grads(False)
        return merged, normed, logits[merged.shape[-2] :], maps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of what `forward` was given."""
        saved, after = ctx.saved_tensors, NUM_TENSORS + len(Made._fields)
        made = Made(*saved[NUM_TENSORS:after])
        flat = *saved[:NUM_TENSORS], *ctx.numbers, *saved[after:]
        streams, merge, connection, _, past = unflatten_arguments(flat)
        num_streams = connection.weight.shape[1] // merge.output.shape[-1]
        if past is not None:
            streams = past.streams
            for earlier in past.merges:
                streams = boundary_replay(streams, num_streams, *earlier)
        if made.streams is None:
            merged = Merged(merge.output, made.maps, merge.layer_scale, merge.keep)
            made = made._replace(streams=boundary_replay(streams, num_streams, *merged))
        # the last one is of the maps
        results = made.streams, merge.output, made.logits[num_streams:]
        contiguous = [
            torch.zeros_like(result) if gradient is None else gradient.contiguous()
            for gradient, result in zip(gradients[:-1], results, strict=True)
        ]
        given = streams, *flat[1:NUM_GIVEN]
        # `save` and `held` come before the flat arguments
        learned = any(ctx.needs_input_grad[2:][LEARNED])
        made_gradients = Gradients(*boundary_backward(*contiguous, list(made), learned, *given))
        if ctx.held is not None:
            _, d_normed, d_rest = contiguous
            sums = made_gradients.pre, d_normed, d_rest, *made[:3], connection.scale, connection.phi
            weight = connection.weight
            ctx.held.later(lambda: flatten_parameters(*(*parameter_sums(*sums), weight)))
        # autograd casts those of parameters from fp32
        found = made_gradients.flatten(connection.weight) if learned else made_gradients[: LEARNED.start]
        wanted = (None if of is None else gradient for of, gradient in zip(given, found, strict=False))
        return None, None, *wanted, *[None] * (len(flat) - len(found))


def _products(merge: Merge, weight: Any) -> tuple[int, int]:
    """Products of one boundary: of merge, which has one for each of its maps' entries, and read, and of the logits."""
    dim = merge.output[-1]
    (num_maps, num_tokens), (num_logits, width) = merge.logits, weight
    n = width // dim
    return num_tokens * dim * (num_maps + n), num_tokens * dim * n * num_logits


@register_flop_formula(torch.ops.mhc_vision.boundary)
def _forward_flops(*flat: Any, **_: Any) -> int:
    _streams, merge, connection, *_others = unflatten_arguments(flat)
    return 2 * sum(_products(merge, connection.weight))


@register_flop_formula(torch.ops.mhc_vision.parameter_sums)
def _sums_flops(d_pre: Any, d_normed: Any, d_rest: Any, merged: Any, logits: Any, *_: Any, **__: Any) -> int:
    n, dim = merged[-2:]
    num_logits, num_tokens = logits
    return 2 * num_tokens * n * dim * num_logits


@register_flop_formula(torch.ops.mhc_vision.boundary_backward)
def _backward_flops(d_streams: Any, d_normed: Any, d_rest: Any, made: Any, learned: Any, *flat: Any, **_: Any) -> int:
    _streams, merge, connection, *_others = unflatten_arguments(flat)
    of_maps, of_logits = _products(merge, connection.weight)
    return 4 * of_maps + (4 if learned else 2) * of_logits
