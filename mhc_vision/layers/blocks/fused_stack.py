"""A stack of mHC blocks run boundary by boundary: what the models do where the Triton kernels run.

The state between two branches is pending: streams, the output of the last branch and the logits of its connection. The
`boundary` op turns it into the next branch's input, so each boundary is one op, forward and backward, and the modules
keep their parameters, their random numbers and their results.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm, LayerNormFp32, RmsNorm, RmsNormFp32
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn

from mhc_vision.kernels import boundary
from mhc_vision.kernels.backend import why_not_triton
from mhc_vision.kernels.boundary import Connection, Merge, Merged, Norm, Past
from mhc_vision.kernels.checks import MAX_FUSED_STREAMS
from mhc_vision.kernels.prepared_phi import prepare_phi
from mhc_vision.layers.blocks.ends import enter, leave
from mhc_vision.layers.blocks.steps import Step, has_hooks, take_steps, why_no_tokens
from mhc_vision.layers.constraints import IdentityConstraint, SinkhornConstraint
from mhc_vision.layers.manifold import ManifoldHyperConnection, row_scales, why_no_logits

_LAYER_NORMS = (nn.LayerNorm, LayerNorm, LayerNormFp32)
_NORMS = (*_LAYER_NORMS, nn.RMSNorm, RmsNorm, RmsNormFp32)


def why_not_fused(blocks: Iterable[nn.Module], tokens: Tensor) -> str:
    """Why these blocks do not run fused on these tokens, (B, N, C), or an empty string."""
    return take_fused_steps(blocks, tokens)[1]


def why_not_fusable(blocks: Iterable[nn.Module]) -> str:
    """What keeps these blocks themselves from running fused, or an empty string."""
    return take_steps(blocks, _why_not_step)[1]


def take_fused_steps(
    blocks: Iterable[nn.Module], tokens: Tensor, arguments: Sequence[dict[str, Any]] | None = None
) -> tuple[list[Step], str]:
    """What `run_fused` runs, and why it cannot, or an empty string; as `take_steps`."""
    reason = why_no_tokens(blocks, tokens) or why_not_triton(tokens, tokens.shape[-1])
    return ([], reason) if reason else take_steps(blocks, _why_not_step, arguments)


def _why_not_step(step: Step) -> str:
    return _why_not_connection(step.connection) or _why_not_branch(step)


def _why_not_connection(connection: Any) -> str:
    if type(connection) is not ManifoldHyperConnection:
        return f"the kernels make the maps of mHC, not those of {type(connection).__name__}"
    if type(connection.constraint) not in (SinkhornConstraint, IdentityConstraint):
        return f"the kernels make res by Sinkhorn-Knopp or the identity; here is {type(connection.constraint).__name__}"
    if has_hooks(connection.constraint):
        return "hooks wait at the constraint of a connection"
    if connection.num_streams > MAX_FUSED_STREAMS:
        return f"the kernels take up to {MAX_FUSED_STREAMS} streams, not {connection.num_streams}"
    return why_no_logits(connection)


def _why_not_branch(step: Step) -> str:
    if step.parts is None:
        return "the kernels norm what a branch reads, and end it with LayerScale and DropPath; here it is otherwise"
    norm, _, _, drop_path, others = step.parts
    if type(norm) not in _NORMS or norm.weight is None or norm.eps is None:
        return f"the kernels norm as LayerNorm or RMSNorm with weight and eps does, not as {norm} does"
    for module in (drop_path, *others):
        if type(module) not in (nn.Identity, LayerScale, DropPath):
            return f"the kernels do not do what {type(module).__name__} does after a branch"
    if any(has_hooks(module) for module in (norm, drop_path, *others)):
        return "hooks wait at the norm, LayerScale or DropPath of a branch"
    return ""


def run_fused(blocks: Sequence[Any], steps: Sequence[Step], tokens: Tensor, stream_stride: int = 1) -> Tensor:
    """(B, N, C) -> (B, N, C), what the blocks compute one by one.

    Args:
        blocks: with the ends of the stack; where one is another stack's, streams (B, N, n, C) enter or leave there.
        steps: all of theirs, from `take_fused_steps`.
        tokens: at their entry.
        stream_stride: r; the backward pass keeps the streams of every r-th boundary, counted from the last, and makes
            the others again.
    """
    dtype = blocks[0].token_dtype()
    streams, read, logits = enter(tokens, blocks[0].expansion, steps[0].connection, dtype)
    normed, logits = _parts(steps[0]).norm(read), logits.flatten(0, 1).t().contiguous()
    past = Past(streams, ())
    later = [step.connection for step in steps[1:]]
    connections = list(map(_boundary_connection, later, row_scales(later)))
    n = steps[0].connection.num_streams
    phis = prepare_phi([connection.weight for connection in connections], n, streams.dtype)
    for i, (step, following) in enumerate(itertools.pairwise(steps)):
        _, inner, layer_scale, drop_path, _ = _parts(step)
        save = (len(steps) - 2 - i) % stream_stride == 0
        num_iters = getattr(step.connection.constraint, "num_iters", 1)
        merge = Merge(inner(normed), logits, layer_scale, _kept(drop_path, tokens), num_iters)
        streams, normed, logits, maps = boundary(
            streams,
            merge,
            connections[i]._replace(phi=phis[i]),
            _boundary_norm(_parts(following).norm),
            past if past.merges else None,
            save,
        )
        merged = Merged(merge.output, maps, merge.layer_scale, merge.keep)
        past = Past(streams, ()) if save else Past(past.streams, (*past.merges, merged))
    _, inner, layer_scale, drop_path, _ = _parts(steps[-1])
    output = inner(normed)
    output = drop_path(output if layer_scale is None else output * layer_scale)
    of_tokens = logits.t().unflatten(0, tokens.shape[:2])
    return leave(streams, output, of_tokens, steps[-1].connection, blocks[-1].reduction, dtype)


def _parts(step: Step) -> Any:
    assert step.parts is not None, "checked by take_fused_steps"
    return step.parts


def _boundary_connection(connection: ManifoldHyperConnection, row_scale: Tensor) -> Connection:
    weight, scale, bias = connection.all_rows(row_scale)
    return Connection(weight, scale, bias, connection.eps)


def _boundary_norm(norm: Any) -> Norm:
    return Norm(norm.weight, getattr(norm, "bias", None), norm.eps, type(norm) not in _LAYER_NORMS)


def _kept(drop_path: nn.Module, tokens: Tensor) -> Tensor | None:
    """The factor that DropPath gives each sample, drawn as it draws; None where it drops nothing."""
    if isinstance(drop_path, nn.Identity) or not drop_path.training:
        return None
    return drop_path(torch.ones(len(tokens), device=tokens.device))
