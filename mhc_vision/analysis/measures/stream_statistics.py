"""Whether the streams hold different things: their norms, cosine, effective rank and shares."""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.analysis.measures.token_statistics import TokenMoments, TokenQuantiles
from mhc_vision.models.instruments.streams import effective_rank, stream_shares


def stream_norms(streams: Tensor) -> Tensor:
    """L2 norm of each stream, (..., n, C) -> (..., n)."""
    return torch.linalg.vector_norm(streams.double(), dim=-1)


def stream_cosine(streams: Tensor) -> Tensor:
    """Mean cosine over the pairs of streams, (..., n, C) -> (...): 1 where all point the same way. n must exceed 1."""
    n = streams.shape[-2]
    directions = torch.nn.functional.normalize(streams.double(), dim=-1)
    cosines = directions @ directions.transpose(-2, -1)
    return (cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))


class StreamStatistics:
    """Collects the measures in front of every branch and in front of the read-out, batch after batch."""

    def __init__(self) -> None:
        self._norms: dict[int, TokenMoments] = {}
        self._shares: dict[int, TokenMoments] = {}
        self._cosines: dict[int, TokenQuantiles] = {}
        self._ranks: dict[int, TokenQuantiles] = {}

    def add(self, place: int, streams: Tensor) -> None:
        """Take the streams (..., n, C) in front of branch `place` for one batch; L is the read-out."""
        self._norms.setdefault(place, TokenMoments(1)).add(stream_norms(streams))
        self._shares.setdefault(place, TokenMoments(1)).add(stream_shares(streams))
        if streams.shape[-2] > 1:
            self._cosines.setdefault(place, TokenQuantiles()).add(stream_cosine(streams))
            self._ranks.setdefault(place, TokenQuantiles()).add(effective_rank(streams))

    def result(self) -> dict[str, Any]:
        """Of all places, one after the other.

        Returns:
            `norm`: mean L2 norm of each stream, (L + 1, n); `share`: mean share of each in the sum of squared norms,
            (L + 1, n), the largest of which is `dominant_share`; `cosine` and `effective_rank`: L + 1 distributions
            over tokens, None for one stream.
        """

        def distributions(places: dict[int, TokenQuantiles]) -> list[dict[str, float]] | None:
            return [values.result() for values in places.values()] or None

        return {
            "norm": [norms.mean.tolist() for norms in self._norms.values()],
            "share": [shares.mean.tolist() for shares in self._shares.values()],
            "cosine": distributions(self._cosines),
            "effective_rank": distributions(self._ranks),
        }
