"""A stack of blocks with res = I run from branch to branch: what the models do on a CPU.

Each step adds one branch output to the streams, makes the logits of the next connection and reads, in one op (see
`kernels.add_and_read`). Equal streams are one tensor until the first branch has been added, and a mean or sum read-out
takes the last one without the streams that it would make. Modules, random numbers and results stay the blocks'.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.layers.blocks.fused_stack import has_hooks, read_equal_streams
from mhc_vision.layers.blocks.stream_block import read_out
from mhc_vision.layers.blocks.vit import ViTStreamBlock
from mhc_vision.layers.constraints import IdentityConstraint
from mhc_vision.layers.manifold import ManifoldHyperConnection
from mhc_vision.layers.streams import StreamExpansion, StreamReduction, stream_dtype_of


def can_chain(blocks: Iterable[nn.Module], tokens: Tensor) -> bool:
    """Whether these blocks can run from branch to branch on these tokens, (B, N, C).

    They can in eager mode on a CPU, where every block is one of a ViT with identity-constrained mHC whose `pre` and
    `post` learn, and no hook or observer waits at a module whose work is taken over.
    """
    # what torch.fx traces with is no tensor
    if is_traced() or torch.compiler.is_compiling() or not isinstance(tokens, Tensor) or tokens.dim() != 3:
        return False
    if tokens.device.type != "cpu" or tokens.numel() == 0 or runs_triton(tokens, tokens.shape[-1]):
        return False
    stack: list[Any] = list(blocks)
    return (
        len(stack) > 0
        and all(_can_chain_block(block) for block in stack)
        and all(type(block.expansion) is nn.Identity for block in stack[1:])
        and all(type(block.reduction) is nn.Identity for block in stack[:-1])
    )


def _can_chain_block(block: Any) -> bool:
    if not isinstance(block, ViTStreamBlock) or type(block).forward is not ViTStreamBlock.forward:
        return False
    connections: tuple[Any, ...] = (block.connection1, block.connection2)
    return (
        "forward" not in vars(block)
        and not has_hooks(block)
        and all(type(connection) is ManifoldHyperConnection for connection in connections)
        and all(isinstance(connection.constraint, IdentityConstraint) for connection in connections)
        and all(connection.learn_pre and connection.learn_post for connection in connections)
        and not any(connection.is_observed() or has_hooks(connection.constraint) for connection in connections)
    )


def run_chained(blocks: Iterable[nn.Module], tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, C), what the blocks compute one by one."""
    stack: list[Any] = list(blocks)
    connections = [connection for block in stack for connection in (block.connection1, block.connection2)]
    branches = [branch for block in stack for branch in (partial(_attend, block), block.mlp_branch)]
    dtype = stack[0].token_dtype()
    streams, read, post_logits = _enter(tokens, stack[0].expansion, connections[0], dtype)
    last = len(connections) - 2
    for i, (weight, bias) in enumerate(_stacked_parameters(connections[1:])):
        streams, read, post_logits = kernels.add_and_read(
            streams,
            branches[i](read),
            post_logits,
            weight,
            bias,
            connections[i + 1].eps,
            # nobody else sees the streams, but the first ones may be the tokens
            in_place=i > 0 and not torch.is_grad_enabled(),
            last=i == last,
            dtype=dtype,
        )
    return _leave(streams, branches[-1](read), post_logits, stack[-1].reduction, dtype)


def _stacked_parameters(connections: list[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """α ∘ φᵀ and b of each connection, made for all in one op: one by one, each would take as long."""
    scale = torch.stack([connection.scale for connection in connections])
    row_scale = scale.repeat_interleave(connections[0].num_streams, 1).unsqueeze(-1)
    weight = row_scale * torch.stack([connection.weight for connection in connections])
    return zip(weight.unbind(), torch.stack([connection.bias for connection in connections]).unbind(), strict=True)


def _attend(block: Any, tokens: Tensor) -> Tensor:
    output: Tensor = block.attention_branch(tokens, None, False)
    return output


def _enter(
    tokens: Tensor, expansion: nn.Module, connection: Any, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The streams, or the tokens that all of them equal; the first branch's input; its connection's `post` logits."""
    if type(expansion) is StreamExpansion and not has_hooks(expansion):
        tokens = tokens.to(stream_dtype_of(tokens, expansion.stream_dtype))
        return tokens, *read_equal_streams(tokens, connection, dtype)
    read, post_logits, streams = kernels.branch_input(
        expansion(tokens), connection.weight, connection.row_scale(), connection.bias, connection.eps, dtype
    )
    return streams, read, post_logits


def _leave(
    streams: Tensor, output: Tensor, post_logits: Tensor, reduction: nn.Module, dtype: torch.dtype | None
) -> Tensor:
    """Add the last branch output and read the streams out."""
    post = 2.0 * torch.sigmoid(post_logits)
    if type(reduction) is not StreamReduction or has_hooks(reduction):
        return read_out(reduction, kernels.add_output(streams, output, post), dtype)
    # the sum of n streams and that of their shares of the output
    wide = post.dtype
    total = streams.sum(-2, dtype=wide) + post.sum(-1, keepdim=True) * output.to(wide)
    return (total / streams.shape[-2] if reduction.mode == "mean" else total).to(dtype or streams.dtype)
