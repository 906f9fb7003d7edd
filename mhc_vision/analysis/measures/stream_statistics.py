"""Whether the streams hold different things: their norms, the cosine between them, and their effective rank."""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.analysis.measures.token_statistics import TokenMoments, TokenQuantiles


def stream_norms(streams: Tensor) -> Tensor:
    """L2 norm of each stream, (..., n, C) -> (..., n)."""
    return torch.linalg.vector_norm(streams.double(), dim=-1)


def stream_cosine(streams: Tensor) -> Tensor:
    """Mean cosine over the pairs of streams, (..., n, C) -> (...): 1 where all point the same way. n must exceed 1."""
    n = streams.shape[-2]
    directions = torch.nn.functional.normalize(streams.double(), dim=-1)
    cosines = directions @ directions.transpose(-2, -1)
    return (cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))


def effective_rank(streams: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of X (Roy and Vetterli, 2007), (..., n, C) -> (...).

    From 1, where all streams are multiples of one vector, to n, where they are orthogonal and of equal norm; 1 for
    X = 0.
    """
    streams = streams.double()
    # the Gram matrix is only n x n; fp64, as its eigenvalues are squares
    squares = torch.linalg.eigvalsh(streams @ streams.transpose(-2, -1)).clamp_min(0)
    values = squares.sqrt()
    shares = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.special.entr(shares).sum(-1).exp()


class StreamStatistics:
    """Collects the measures in front of every branch and in front of the read-out, batch after batch."""

    def __init__(self) -> None:
        self._norms: dict[int, TokenMoments] = {}
        self._cosines: dict[int, TokenQuantiles] = {}
        self._ranks: dict[int, TokenQuantiles] = {}

    def add(self, place: int, streams: Tensor) -> None:
        """Take the streams (..., n, C) in front of branch `place` for one batch; L is the read-out."""
        self._norms.setdefault(place, TokenMoments(1)).add(stream_norms(streams))
        if streams.shape[-2] > 1:
            self._cosines.setdefault(place, TokenQuantiles()).add(stream_cosine(streams))
            self._ranks.setdefault(place, TokenQuantiles()).add(effective_rank(streams))

    def result(self) -> dict[str, Any]:
        """Of all places, one after the other.

        Returns:
            `norm`: mean L2 norm of each stream, (L + 1, n); `cosine` and `effective_rank`: L + 1 distributions over
            tokens, None for one stream.
        """

        def distributions(places: dict[int, TokenQuantiles]) -> list[dict[str, float]] | None:
            return [values.result() for values in places.values()] or None

        return {
            "norm": [norms.mean.tolist() for norms in self._norms.values()],
            "cosine": distributions(self._cosines),
            "effective_rank": distributions(self._ranks),
        }
