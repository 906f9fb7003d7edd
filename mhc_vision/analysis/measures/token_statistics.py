"""Statistics over the tokens of many batches, none of which is kept in memory."""

import numpy as np
import torch
from torch import Tensor


class TokenMoments:
    """Mean and standard deviation of a tensor over all its leading dimensions, batch after batch, in fp64.

    Args:
        num_dims: trailing dimensions that are kept.
    """

    def __init__(self, num_dims: int) -> None:
        self._num_dims = num_dims
        self._count = 0
        self._mean: Tensor = torch.zeros(())
        self._squares: Tensor = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Take (..., *kept) of one batch; without leading dimensions it counts as one token."""
        kept = values.shape[values.ndim - self._num_dims :]
        flat = values.detach().double().reshape(-1, *kept)
        count, mean = len(flat), flat.mean(0)
        squares = (flat - mean).square().sum(0)
        if self._count:
            # Chan's formula for the moments of two parts
            total, difference = self._count + count, mean - self._mean
            squares = self._squares + squares + difference.square() * (self._count * count / total)
            mean = self._mean + difference * (count / total)
        self._count, self._mean, self._squares = self._count + count, mean, squares

    @property
    def mean(self) -> Tensor:
        """Over all tokens, fp64."""
        return self._mean.cpu()

    @property
    def std(self) -> Tensor:
        """Over all tokens (the population's), fp64."""
        return (self._squares / max(1, self._count)).sqrt().cpu()


class TokenQuantiles:
    """The distribution of one number a token; keeps 4 bytes for each."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Take (...) of one batch."""
        self._parts.append(values.detach().float().flatten().cpu())

    def result(self) -> dict[str, float]:
        """`median`, `p5`, `p95` (percentiles) and `max` over all tokens."""
        # numpy's has no limit on the number of values, as torch's has
        values = torch.cat(self._parts).numpy()
        p5, median, p95 = np.percentile(values, (5, 50, 95))
        return {"median": float(median), "p5": float(p5), "p95": float(p95), "max": float(values.max())}
