"""Amax gains of a model along its depth, branch by branch and composed (mHC, arXiv 2512.24880, Sec. 3.1 and Fig. 7)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mhc_vision.models.instruments.gains import backward_gain, column_error, composite_maps, forward_gain

_MEANS: dict[str, Callable[[Tensor], Tensor]] = {"forward": forward_gain, "backward": backward_gain}


class GainProfile:
    """Collects gains and column errors of `res`, batch after batch."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}

    def add(self, maps: Sequence[Tensor], weight: float = 1.0) -> None:
        """Take one batch.

        Args:
            maps: `res` of the L branches, (..., n, n), in order.
            weight: number of images, by which batches count in the means.
        """
        maps = [res.double() for res in maps]
        for prefix, stack in (("", maps), ("composite_", composite_maps(maps))):
            for name, gain in _MEANS.items():
                values = weight * torch.stack([gain(res) for res in stack]).cpu()
                self._sums[prefix + name] = self._sums.get(prefix + name, 0) + values
            errors = torch.stack([column_error(res) for res in stack]).cpu()
            key = f"{prefix}column_error"
            self._maxima[key] = torch.maximum(self._maxima.get(key, errors), errors)
        self._weight += weight

    def result(self) -> dict[str, list[float]]:
        """The profile over the L branches.

        Returns:
            `forward` and `backward`: largest absolute row and column sum of each branch's `res`, averaged over tokens;
            `column_error`: largest |log column sum| over tokens, NaN or infinite where a column sum is not positive.
            The same with `composite_` in front: of the product of all maps from that branch to the last one.
        """
        means = {name: (values / self._weight).tolist() for name, values in self._sums.items()}
        return means | {name: values.tolist() for name, values in self._maxima.items()}
