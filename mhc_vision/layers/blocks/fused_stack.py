"""A stack of mHC blocks run boundary by boundary: what the models do where the Triton kernels run.

The state between two branches is pending: streams, the output of the last branch and the logits of its connection. The
`boundary` op turns it into the next branch's input, so each boundary is one op, forward and backward, and the modules
keep their parameters, their random numbers and their results.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision.kernels import boundary, merge_and_read, sinkhorn_knopp, stream_logits
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.kernels.boundary import Connection, Merge, Merged, Norm, Past
from mhc_vision.kernels.checks import MAX_FUSED_STREAMS
from mhc_vision.kernels.prepared_phi import prepare_phi
from mhc_vision.layers.blocks.vit import HyperBlock
from mhc_vision.layers.constraints import SinkhornConstraint
from mhc_vision.layers.manifold import ManifoldHyperConnection
from mhc_vision.layers.streams import StreamExpansion, StreamReduction, stream_dtype_of


def can_fuse(blocks: Iterable[nn.Module], tokens: Tensor) -> bool:
    """Whether these blocks can run fused on these tokens, (B, N, C).

    They can where the Triton kernels run, every block is a `HyperBlock` of Sinkhorn-constrained mHC, all of whose maps
    learn, with LayerNorms, and no hook or observer waits at a module whose work the boundary takes over.
    """
    # what torch.fx traces with is no tensor
    if is_traced() or not isinstance(tokens, Tensor) or tokens.dim() != 3:
        return False
    return runs_triton(tokens, tokens.shape[-1]) and is_fusable(blocks)


def is_fusable(blocks: Iterable[nn.Module]) -> bool:
    """What `can_fuse` asks of the blocks alone."""
    stack: list[Any] = list(blocks)
    if not stack:
        return False
    first, last = stack[0], stack[-1]
    return (
        all(_can_fuse_block(block) for block in stack)
        and isinstance(getattr(first, "expansion", None), StreamExpansion)
        and isinstance(getattr(last, "reduction", None), StreamReduction)
        and not any(has_hooks(end) for end in (first.expansion, last.reduction))
        and all(type(block.expansion) is nn.Identity for block in stack[1:])
        and all(type(block.reduction) is nn.Identity for block in stack[:-1])
    )


def _can_fuse_block(block: Any) -> bool:
    if type(block) is not HyperBlock or "forward" in vars(block):
        return False
    connections: tuple[Any, ...] = (block.connection1, block.connection2)
    norms = (block.norm1, block.norm2)
    taken_over = (block, *connections, *norms, block.ls1, block.ls2, block.drop_path1, block.drop_path2)
    return (
        all(isinstance(connection, ManifoldHyperConnection) for connection in connections)
        and all(connection.learn_pre and connection.learn_post for connection in connections)
        and all(isinstance(connection.constraint, SinkhornConstraint) for connection in connections)
        and not any(connection.is_observed() for connection in connections)
        and block.connection1.num_streams <= MAX_FUSED_STREAMS
        and all(isinstance(norm, nn.LayerNorm) and norm.bias is not None for norm in norms)
        and not any(has_hooks(module) for module in (*taken_over, *(c.constraint for c in connections)))
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks wait at the forward or backward pass of this module itself."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def run_fused(blocks: Iterable[nn.Module], tokens: Tensor, stream_stride: int = 1) -> Tensor:
    """(B, N, C) -> (B, N, C), what the blocks compute one by one.

    With a `stream_stride` of r, the backward pass keeps the streams of every r-th boundary, counted from the last, and
    makes the others again.
    """
    stack: list[Any] = list(blocks)
    steps = [
        step
        for block in stack
        for step in (
            (block.connection1, block.norm1, block.attn, block.ls1, block.drop_path1),
            (block.connection2, block.norm2, block.mlp, block.ls2, block.drop_path2),
        )
    ]
    dtype = stack[0].token_dtype()
    streams = tokens.to(stream_dtype_of(tokens, stack[0].expansion.stream_dtype))
    past = Past(streams, ())
    following_weights = [step[0].weight for step in steps[1:]]
    phis = prepare_phi(following_weights, steps[0][0].num_streams, streams.dtype)
    connection, norm, *_ = steps[0]
    normed, logits = _enter(streams, connection, norm, dtype)
    for i, (connection, _, branch, layer_scale, drop_path) in enumerate(steps):
        output = branch(normed)
        if i + 1 == len(steps):
            output = drop_path(layer_scale(output))
            return _leave(streams, output, logits, connection, stack[-1].reduction, dtype)
        following, norm, *_ = steps[i + 1]
        save = (len(steps) - 2 - i) % stream_stride == 0
        merge = Merge(
            output,
            logits,
            getattr(layer_scale, "gamma", None),
            _kept(drop_path, tokens),
            connection.constraint.num_iters,
        )
        streams, normed, logits, maps = boundary(
            streams,
            merge,
            Connection(following.weight, following.row_scale(), following.bias, following.eps, phis[i]),
            Norm(norm.weight, norm.bias, norm.eps),
            past if past.merges else None,
            save,
        )
        merged = Merged(output, maps, merge.layer_scale, merge.keep)
        past = Past(streams, ()) if save else Past(past.streams, (*past.merges, merged))
    raise AssertionError("a stack has at least one block")


def _enter(
    tokens: Tensor, connection: ManifoldHyperConnection, norm: nn.Module, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """The first branch's input, and the logits of its connection after `pre`."""
    read, logits = read_equal_streams(tokens, connection, dtype)
    return norm(read), logits.flatten(0, 1).t().contiguous()


def read_equal_streams(
    tokens: Tensor, connection: ManifoldHyperConnection, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """What a connection reads from n streams that all equal the tokens, and its logits after `pre`.

    They are one stream, read with the sum of `pre`: (..., C) -> (..., C) in `dtype` or that of the tokens,
    (..., k - n).
    """
    n, dim = connection.num_streams, connection.dim
    weight = connection.weight.view(-1, n, dim).sum(1)
    made = stream_logits(tokens.unsqueeze(-2), weight, connection.row_scale(), connection.bias, connection.eps)
    pre = torch.sigmoid(made[..., :n]).sum(-1, keepdim=True)
    return (pre * tokens).to(dtype or tokens.dtype), made[..., n:]


def _leave(
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    connection: Any,
    reduction: StreamReduction,
    dtype: torch.dtype | None,
) -> Tensor:
    """Merge the last branch and read the streams out."""
    n = connection.num_streams
    post, res = logits.t().unflatten(0, output.shape[:2]).split([n, n * n], -1)
    maps = sinkhorn_knopp(res.unflatten(-1, (n, n)), connection.constraint.num_iters)
    weight = 1.0 / n if reduction.mode == "mean" else 1.0
    return merge_and_read(streams, output, maps, 2.0 * torch.sigmoid(post), weight, dtype)


def _kept(drop_path: nn.Module, tokens: Tensor) -> Tensor | None:
    """The factor that DropPath gives each sample, drawn as it draws; None where it drops nothing."""
    if isinstance(drop_path, nn.Identity) or not drop_path.training:
        return None
    return drop_path(torch.ones(len(tokens), device=tokens.device))
