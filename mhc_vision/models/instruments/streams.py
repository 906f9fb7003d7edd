"""Whether streams hold different things, and how much of a difference between them reaches the read-out.

L branches, n streams of C channels. All results are fp64; they are NaN where what is measured is not finite.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_vision.models.instruments.gains import composite_maps


def effective_rank(streams: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of X (Roy and Vetterli, 2007), (..., n, C) -> (...).

    From 1, where all streams are multiples of one vector, to n, where they are orthogonal and of equal norm; 1 for
    X = 0.
    """
    streams = _in_fp64(streams)
    # the Gram matrix is only n x n; fp64, as its eigenvalues are squares
    gram = streams @ streams.transpose(-2, -1)
    finite = gram.isfinite().all(-1).all(-1)
    squares = torch.linalg.eigvalsh(gram.where(finite[..., None, None], 0.0)).clamp_min(0)
    values = squares.sqrt()
    shares = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.special.entr(shares).sum(-1).exp().where(finite, torch.nan)


def stream_shares(streams: Tensor) -> Tensor:
    """Share of each stream in the sum of squared norms, token by token, (..., n, C) -> (..., n); 1/n for X = 0."""
    squares = _in_fp64(torch.linalg.vector_norm(streams.float(), dim=-1)).square()
    total = squares.sum(-1, keepdim=True)
    return torch.where(total == 0, 1.0 / squares.shape[-1], squares / total)


def dominant_share(streams: Tensor) -> Tensor:
    """Share of the stream that is largest over all tokens, (..., n, C) -> a scalar from 1/n to 1.

    Each token counts alike: its streams' shares are averaged over tokens, and the largest mean counts. Streams of equal
    norm, copies among them, give 1/n; one that holds everything gives 1. "Analyzing Stream Collapse in
    Hyper-Connections" (arXiv 2606.03483) finds that signal concentrates in one stream; this measure of it is ours.
    """
    return stream_shares(streams).flatten(0, -2).mean(0).amax()


def stream_memory(maps: Sequence[Tensor]) -> Tensor:
    """How much of a difference between streams survives from each branch to the read-out, (L,).

    It is the largest singular value of P (res_{L-1} · ... · res_l) P, with P = I - 11ᵀ/n and each `res` averaged over
    its tokens. P takes out the mean of the streams, which a doubly stochastic product carries on as it is, with its
    eigenvector 1/n; what is left is the second singular value of such a product: of the difference
    that fades least.
    1 where nothing fades, as with `res` = I; with all off-diagonals equal to b it shrinks by 1 - n b a branch.

    Args:
        maps: `res` of the L branches, (..., n, n), in order, for n > 1.

    Returns:
        Of what the streams before each branch still tell apart at the end; the first spans the whole stack.
    """
    means = [_in_fp64(res).reshape(-1, *res.shape[-2:]).mean(0) for res in maps]
    products = torch.stack(composite_maps(means))
    n = products.shape[-1]
    centred = torch.eye(n, dtype=products.dtype, device=products.device) - 1.0 / n
    products = centred @ products @ centred
    finite = products.isfinite().all(-1).all(-1)
    return torch.linalg.matrix_norm(products.where(finite[:, None, None], 0.0), ord=2).where(finite, torch.nan)


def _in_fp64(values: Tensor) -> Tensor:
    # Apple's GPUs have no fp64
    return (values.cpu() if values.device.type == "mps" else values).double()
