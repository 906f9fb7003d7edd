"""The mean of every map over images and tokens."""

from typing import Any

from mhc_vision.analysis.measures.token_statistics import TokenMoments
from mhc_vision.kernels import Coefficients

MAP_DIMS = (1, 1, 2)
"""Dimensions of `pre`, `post` and `res` after those of tokens."""


class MeanMaps:
    """Collects `pre`, `post` and `res` of each branch, batch after batch."""

    def __init__(self) -> None:
        self._moments: dict[int, list[TokenMoments]] = {}

    def add(self, branch: int, maps: Coefficients) -> None:
        """Take the maps of one branch for one batch: (..., n), (..., n), (..., n, n)."""
        moments = self._moments.setdefault(branch, [TokenMoments(num_dims) for num_dims in MAP_DIMS])
        for moment, values in zip(moments, maps, strict=True):
            moment.add(values)

    def result(self) -> dict[str, dict[str, Any]]:
        """`mean` and `std` over tokens of each of `pre` (L, n), `post` (L, n) and `res` (L, n, n), as nested lists."""
        return {
            field: {
                "mean": [moments[index].mean.tolist() for moments in self._moments.values()],
                "std": [moments[index].std.tolist() for moments in self._moments.values()],
            }
            for index, field in enumerate(Coefficients._fields)
        }
