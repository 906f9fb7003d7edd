"""The ends of a stack that runs from branch to branch: from tokens to the first branch, from the last one to tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.layers.blocks.steps import has_hooks
from mhc_vision.layers.blocks.stream_block import read_out
from mhc_vision.layers.manifold import ManifoldHyperConnection
from mhc_vision.layers.streams import StreamExpansion, StreamReduction, stream_dtype_of


def enter(
    tokens: Tensor, expansion: Any, connection: ManifoldHyperConnection, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The streams, or the tokens that all of them equal; what the first branch reads; its connection's other logits.

    Args:
        tokens: (B, N, C), or streams (B, N, n, C) where the expansion does nothing.
        expansion: of the stack.
        connection: the first one.
        dtype: of what is read; None is that of the streams.

    Returns:
        (B, N, n, C) or (B, N, C), (B, N, C), and the logits after those of `pre`, (B, N, k - n).
    """
    weight, scale, bias = connection.all_rows(connection.row_scale())
    if type(expansion) is not StreamExpansion or has_hooks(expansion):
        read, logits, streams = kernels.branch_input(expansion(tokens), weight, scale, bias, connection.eps, dtype)
        return streams, read, logits
    tokens = tokens.to(stream_dtype_of(tokens, expansion.stream_dtype))
    # equal streams are one stream, read with the sum of `pre`
    n, dim = connection.num_streams, connection.dim
    of_sum = weight.view(-1, n, dim).sum(1)
    logits = kernels.stream_logits(tokens.unsqueeze(-2), of_sum, scale, bias, connection.eps)
    pre = torch.sigmoid(logits[..., :n]).sum(-1, keepdim=True)
    return tokens, (pre * tokens).to(dtype or tokens.dtype), logits[..., n:]


def leave(
    streams: Tensor,
    output: Tensor,
    logits: Tensor,
    connection: ManifoldHyperConnection,
    reduction: nn.Module,
    dtype: torch.dtype | None,
) -> Tensor:
    """Merge the last branch and read the streams out: (B, N, C), or (B, N, n, C) where the reduction does nothing.

    A mean or sum takes one pass, without the streams that it would read.

    Args:
        streams: (B, N, n, C).
        output: of the last branch, (B, N, C).
        logits: of its connection after those of `pre`, (B, N, k - n).
        connection: the last one.
        reduction: of the stack.
        dtype: of the tokens; None is that of the streams.
    """
    n = connection.num_streams
    post, res = 2.0 * torch.sigmoid(logits[..., :n]), connection.constraint(logits[..., n:])
    if type(reduction) is not StreamReduction or has_hooks(reduction):
        return read_out(reduction, connection.merge(streams, output, res, post), dtype)
    weight = 1.0 / n if reduction.mode == "mean" else 1.0
    return kernels.merge_and_read(streams, output, res, post, weight, dtype)
