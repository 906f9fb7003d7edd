"""A stack of blocks with res = I run from branch to branch: what the models do on a CPU.

Each step adds one branch output to the streams, makes the logits of the next connection and reads, in one op (see
`kernels.add_and_read`). Equal streams are one tensor until the first branch has been added, and a mean or sum read-out
takes the last one without the streams that it would make. Modules, random numbers and results stay the blocks'.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.kernels.backend import why_not_triton
from mhc_vision.layers.blocks.ends import enter, leave
from mhc_vision.layers.blocks.steps import Step, has_hooks, take_steps, why_no_tokens
from mhc_vision.layers.constraints import IdentityConstraint
from mhc_vision.layers.manifold import ManifoldHyperConnection, row_scales, why_no_logits

_COMPILED = "torch.compile fuses the operations of each block"


def why_not_chained(blocks: Iterable[nn.Module], tokens: Tensor, compiled: bool = False) -> str:
    """Why these blocks do not run from branch to branch on these tokens, (B, N, C), or an empty string.

    Args:
        blocks: of a stack.
        tokens: at its entry.
        compiled: whether they are going to run in a compiled model.
    """
    return _COMPILED if compiled else take_chained_steps(blocks, tokens)[1]


def take_chained_steps(
    blocks: Iterable[nn.Module], tokens: Tensor, arguments: Sequence[dict[str, Any]] | None = None
) -> tuple[list[Step], str]:
    """What `run_chained` runs, and why it cannot, or an empty string; as `take_steps`."""
    reason = why_no_tokens(blocks, tokens) or _why_not_here(tokens)
    return ([], reason) if reason else take_steps(blocks, _why_not_step, arguments)


def _why_not_here(tokens: Tensor) -> str:
    if torch.compiler.is_compiling():
        return _COMPILED
    if tokens.device.type != "cpu" or tokens.numel() == 0:
        return "the operations are for a CPU"
    return "" if why_not_triton(tokens, tokens.shape[-1]) else "the Triton kernels run"


def _why_not_step(step: Step) -> str:
    connection = step.connection
    if type(connection) is not ManifoldHyperConnection:
        return f"the operations are for mHC, not for {type(connection).__name__}"
    if type(connection.constraint) is not IdentityConstraint:
        return f"the operations are for constraint='identity', not for {type(connection.constraint).__name__}"
    if has_hooks(connection.constraint):
        return "hooks wait at the constraint of a connection"
    return why_no_logits(connection)


def run_chained(blocks: Sequence[Any], steps: Sequence[Step], tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, C), what the blocks compute one by one.

    Args:
        blocks: with the ends of the stack; where one is another stack's, streams (B, N, n, C) enter or leave there.
        steps: all of theirs, from `take_chained_steps`.
        tokens: at their entry.
    """
    connections = [step.connection for step in steps]
    dtype = blocks[0].token_dtype()
    streams, read, post_logits = enter(tokens, blocks[0].expansion, connections[0], dtype)
    last = len(connections) - 2
    for i, (weight, bias) in enumerate(_stacked_parameters(connections[1:])):
        streams, read, post_logits = kernels.add_and_read(
            streams,
            steps[i].branch(read),
            post_logits,
            weight,
            bias,
            connections[i + 1].eps,
            # nobody else sees the streams, but the first ones may be the tokens
            in_place=i > 0 and not torch.is_grad_enabled(),
            last=i == last,
            dtype=dtype,
        )
    return leave(streams, steps[-1].branch(read), post_logits, connections[-1], blocks[-1].reduction, dtype)


def _stacked_parameters(connections: list[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """α ∘ φᵀ and b of each connection, made for all in one op: one by one, each would take as long."""
    rows = map(ManifoldHyperConnection.all_rows, connections, row_scales(connections))
    weight, scale, bias = (torch.stack(parameters) for parameters in zip(*rows, strict=True))
    return zip((scale.unsqueeze(-1) * weight).unbind(), bias.unbind(), strict=True)
