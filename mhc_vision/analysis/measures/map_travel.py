"""How far the maps of a model are from those of its start, where it is a plain residual network."""

from collections.abc import Mapping
from typing import Any

import torch

from mhc_vision.analysis.measures.mean_maps import MAP_DIMS
from mhc_vision.analysis.measures.token_statistics import TokenMoments
from mhc_vision.kernels import Coefficients


class MapTravel:
    """Collects the mean absolute difference of the maps from their start, batch after batch.

    Args:
        starts: The maps of each branch at the start, the same for every token: (n,), (n,), (n, n).
    """

    def __init__(self, starts: Mapping[int, Coefficients]) -> None:
        self._starts = {branch: Coefficients(*(entry.double() for entry in maps)) for branch, maps in starts.items()}
        self._moments: dict[int, list[TokenMoments]] = {}

    def add(self, branch: int, maps: Coefficients) -> None:
        """Take the maps of one branch for one batch: (..., n), (..., n), (..., n, n)."""
        moments = self._moments.setdefault(branch, [TokenMoments(num_dims) for num_dims in MAP_DIMS])
        for moment, now, start in zip(moments, maps, self._starts[branch], strict=True):
            moment.add((now.double() - start).abs())

    def result(self) -> dict[str, Any]:
        """Over the L branches.

        Returns:
            `pre`, `post`, `res`: mean absolute difference over tokens and entries, L numbers each; `mean`: their means
            over branches, by the same names; `start`: the maps at the start, (L, n), (L, n) and (L, n, n).
        """
        fields = Coefficients._fields
        travel = {
            field: [moments[index].mean.mean().item() for moments in self._moments.values()]
            for index, field in enumerate(fields)
        }
        starts = [self._starts[branch] for branch in self._moments]
        return {
            **travel,
            "mean": {field: sum(values) / len(values) for field, values in travel.items()},
            "start": {
                field: torch.stack([maps[index] for maps in starts]).tolist() for index, field in enumerate(fields)
            },
        }
