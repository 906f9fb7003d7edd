"""What a layer boundary takes and makes: NamedTuples, and their flat form for custom ops and autograd.

Shapes: B samples, N tokens each, M = B*N tokens, n streams, C channels, k = 2n + n*n logits. Logits are laid out
tokens last; rows are [post n | res n*n] where streams are merged, [pre n | post n | res n*n] where logits are made.
Where `res` is the identity it has no rows: k = 2n.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Merge(NamedTuple):
    """The merge of one branch into the streams: X' = res · X + postᵀ · (keep · layer_scale · output)."""

    output: Tensor
    """What the branch returned: (B, N, C)."""
    logits: Tensor
    """Logits of the connection around the branch, [post | res]: (n + n*n, M), or (n, M) for an identity `res`. fp32."""
    layer_scale: Tensor | None = None
    """(C,)."""
    keep: Tensor | None = None
    """DropPath's factor per sample: (B,)."""
    num_iters: int = 20
    """Sinkhorn-Knopp iterations that make `res`."""


class Connection(NamedTuple):
    """Parameters of the next connection, which makes the logits of X'."""

    weight: Tensor
    """φᵀ, (k, n*C), rows [pre | post | res]."""
    scale: Tensor
    """One per logit: (k,)."""
    bias: Tensor
    """(k,)."""
    eps: float = 1e-6
    """Added to the mean square of the RMS norm."""
    phi: Tensor | None = None
    """`weight` as the kernels read it, from `prepare_phi`; the ops need it."""


class Norm(NamedTuple):
    """Parameters of the next LayerNorm or RMS norm."""

    weight: Tensor
    """(C,)."""
    bias: Tensor | None = None
    """(C,)."""
    eps: float = 1e-6
    rms: bool = False
    """Whether it is an RMS norm, which subtracts no mean."""


class Merged(NamedTuple):
    """A merge that a boundary has done, for the boundaries after it to do again."""

    output: Tensor
    maps: Tensor
    """[post | res] that it made, in the shape of its logits; fp32."""
    layer_scale: Tensor | None = None
    keep: Tensor | None = None


class Past(NamedTuple):
    """How streams came about: start with `streams`, (B, N, n, C) or (B, N, C), and apply `merges` in turn."""

    streams: Tensor
    merges: tuple[Merged, ...]


class Made(NamedTuple):
    """What the forward pass makes and the backward pass needs."""

    streams: Tensor
    """X', (B, N, n, C)."""
    logits: Tensor
    """[pre | post | res] of the next connection: (k, M), fp32."""
    statistics: Tensor
    """Of each token, (3 + 2n, M), fp32: the inverse RMS of X'; mean and inverse standard deviation of what the next
    branch reads, before LayerNorm; by stream, sums over channels of X', and of X' times what is read less its mean. An
    RMS norm takes the mean and the sums of X' for 0."""
    maps: Tensor
    """[post | res] of the merge, in the shape of its logits; fp32."""

    @classmethod
    def empty(cls, streams: Tensor, merge: Merge, connection: Connection) -> "Made":
        """Memory for the results."""
        *batch_and_tokens, dim = merge.output.shape
        num_maps, num_tokens = merge.logits.shape
        num_logits, width = connection.weight.shape
        n = width // dim
        counts = (num_logits, 3 + 2 * n, num_maps)
        of_tokens = (streams.new_empty(count, num_tokens, dtype=torch.float32) for count in counts)
        return cls(streams.new_empty(*batch_and_tokens, n, dim), *of_tokens)


class Gradients(NamedTuple):
    """What the backward pass makes. Ops return tensors, which share no memory: empty ones where nothing is made."""

    streams: Tensor
    output: Tensor
    logits: Tensor
    layer_scale: Tensor
    """(C,), fp32."""
    scale: Tensor
    """(k,), fp32."""
    others: Tensor
    """Of weight, norm weight, norm bias and bias, side by side; fp32."""
    pre: Tensor
    """Of the logits of the next `pre`, (n, M), fp32: what those of parameters are made of besides what was given."""

    @classmethod
    def empty(cls, streams: Tensor, merge: Merge, connection: Connection, learned: bool) -> "Gradients":
        """Memory for the gradients of these arguments; those of connection and norm are made if they are `learned`."""
        dim, num_logits = merge.output.shape[-1], connection.scale.numel()
        others = connection.weight.numel() + 2 * dim + num_logits
        sizes = (0 if merge.layer_scale is None else dim, num_logits if learned else 0, others if learned else 0)
        of_tokens = map(torch.empty_like, (streams, merge.output, merge.logits))
        of_parameters = (merge.logits.new_empty(size) for size in sizes)
        pre = merge.logits.new_empty(connection.weight.shape[1] // dim, merge.logits.shape[1])
        return cls(*(*of_tokens, *of_parameters, pre))

    def flatten(self, weight: Tensor) -> tuple[Tensor, ...]:
        """In the order of the flat form, with the weight of the connection given, if they are learned."""
        of_parameters = flatten_parameters(self.scale, self.others, weight)
        return self.streams, self.output, self.logits, self.layer_scale, *of_parameters


def flatten_parameters(scale: Tensor, others: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Two fields of `Gradients` as those of parameters stand in the flat form, with the connection's weight given."""
    k, width = weight.shape
    dim = (len(others) - k * width - k) // 2
    d_weight, norm_weight, norm_bias, bias = others.split([k * width, dim, dim, k])
    return d_weight.view(k, width), scale, bias, norm_weight, norm_bias


NUM_TENSORS, NUM_GIVEN = 11, 15
"""Of the flat form: tensors come first, then numbers, and after those the past, which is of tensors again."""

LEARNED = slice(4, 9)
"""Where the parameters of connection and norm stand in the flat form."""

# of the flat form without a past, for `torch.library`
FLAT_SCHEMA = (
    "Tensor streams, Tensor output, Tensor logits, Tensor? layer_scale, Tensor weight, Tensor scale, Tensor bias, "
    "Tensor norm_weight, Tensor? norm_bias, Tensor? keep, Tensor phi, SymInt num_iters, float eps, float norm_eps, "
    "bool rms"
)


def flatten_arguments(
    streams: Tensor | None, merge: Merge, connection: Connection, norm: Norm, past: Past | None = None
) -> tuple[Any, ...]:
    """All arguments side by side: first those of `Gradients`, then what has no gradient, last the past."""
    return (
        streams,
        merge.output,
        merge.logits,
        merge.layer_scale,
        connection.weight,
        connection.scale,
        connection.bias,
        norm.weight,
        norm.bias,
        merge.keep,
        connection.phi,
        merge.num_iters,
        connection.eps,
        norm.eps,
        norm.rms,
        *(() if past is None else (past.streams, *(value for merge in past.merges for value in merge))),
    )


def unflatten_arguments(flat: Iterable[Any]) -> tuple[Any, Merge, Connection, Norm, Past | None]:
    """The inverse of `flatten_arguments`."""
    (
        streams,
        output,
        logits,
        layer_scale,
        weight,
        scale,
        bias,
        norm_weight,
        norm_bias,
        keep,
        phi,
        num_iters,
        eps,
        norm_eps,
        rms,
        *past,
    ) = flat
    return (
        streams,
        Merge(output, logits, layer_scale, keep, num_iters),
        Connection(weight, scale, bias, eps, phi),
        Norm(norm_weight, norm_bias, norm_eps, rms),
        _unflatten_past(*past) if past else None,
    )


def _unflatten_past(streams: Tensor, *values: Any) -> Past:
    size = len(Merged._fields)
    return Past(streams, tuple(Merged(*values[i : i + size]) for i in range(0, len(values), size)))
