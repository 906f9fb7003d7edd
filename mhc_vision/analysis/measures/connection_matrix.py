"""The unfolded connection matrix: how much of each branch's output every later branch reads.

It is Eq. 27 of HC (arXiv 2409.19606), for L branches. Row k < L is the input of branch k, row L the output that the
model reads from its streams. Column 0 is the input embedding, column j + 1 the output of branch j. A plain residual
network has ones on and below the diagonal.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.analysis.measures.token_statistics import TokenMoments
from mhc_vision.kernels import Coefficients

PARALLEL_THRESHOLD = 0.25
"""A branch is called parallel to the one before it if it reads it with at most this part of its row's mean weight."""

_NEAR, _EARLY = 2, 2


def unfold(maps: Sequence[Coefficients], read_weights: Tensor) -> Tensor:
    """The matrix of these maps, for each token where they differ.

    c[k, j + 1] = pre_k · res_{k-1} · ... · res_{j+1} · post_j, which is B_j · Π A_r^t · A_m^k in the paper's notation
    (`res` is A_rᵀ), and the embedding stands in all streams at the start.

    Args:
        maps: of the L branches, in order: (..., n), (..., n), (..., n, n).
        read_weights: weights of the streams in the model's output, (..., n).

    Returns:
        (..., L + 1, L + 1), fp64.
    """
    return torch.stack(torch.broadcast_tensors(*_rows(maps, read_weights)), -2)


def _rows(maps: Sequence[Coefficients], read_weights: Tensor) -> Iterator[Tensor]:
    """The rows of `unfold`, (..., L + 1), one after the other."""
    num_branches, n = len(maps), read_weights.shape[-1]
    # what each stream holds of the embedding and of the branches so far
    content = read_weights.new_ones(n, 1, dtype=torch.float64)
    for index, (pre, post, res) in enumerate(maps):
        yield F.pad(_read(pre, content), (0, num_branches - index))
        kept, written = torch.matmul(res.double(), content), post.double().unsqueeze(-1)
        leading = torch.broadcast_shapes(kept.shape[:-2], written.shape[:-2])
        content = torch.cat([kept.expand(*leading, *kept.shape[-2:]), written.expand(*leading, n, 1)], -1)
    yield _read(read_weights, content)


def _read(weights: Tensor, content: Tensor) -> Tensor:
    """(..., n), (..., n, k) -> (..., k)."""
    return torch.matmul(weights.double().unsqueeze(-2), content).squeeze(-2)


class ConnectionMatrix:
    """Collects the mean over tokens of the unfolded matrices of each token, batch after batch."""

    def __init__(self) -> None:
        self._values: dict[int, TokenMoments] = {}
        self._magnitudes: dict[int, TokenMoments] = {}

    def add(self, maps: Sequence[Coefficients], read_weights: Tensor) -> None:
        """Take one batch; arguments as in `unfold`."""
        for index, row in enumerate(_rows(maps, read_weights)):
            self._values.setdefault(index, TokenMoments(1)).add(row)
            self._magnitudes.setdefault(index, TokenMoments(1)).add(row.abs())

    def result(self) -> dict[str, Any]:
        """`matrix`: the mean of c, `magnitudes`: the mean of |c|, and `measures` of the latter (`matrix_measures`)."""
        matrix, magnitudes = (
            torch.stack([row.mean for row in rows.values()]) for rows in (self._values, self._magnitudes)
        )
        return {
            "matrix": matrix.tolist(),
            "magnitudes": magnitudes.tolist(),
            "measures": matrix_measures(magnitudes),
        }


def matrix_measures(magnitudes: Tensor) -> dict[str, Any]:
    """What the HC paper reads from its figures, as numbers. They weigh connections, not the size of what is connected.

    Args:
        magnitudes: |c|, (L + 1, L + 1).

    Returns:
        - `lambda_shape`: over the inputs of branches with more than four sources, the mean share of the row's |c| on
          its `near` (two latest) and its `early` sources (embedding and first branch); `plain` has what a plain
          residual network gives. A Λ shape has more than that in both. None for fewer than five branches.
        - `parallel_pairs`: pairs of adjacent branches of which the second hardly reads the first: `relative_weight`,
          its |c| over the mean |c| of the row, is at most `PARALLEL_THRESHOLD` (1 in a plain network).
          `relative_weights` has that of all pairs.
        - `embedding_share`: |c| of the input embedding in the output over the sum of that row; `plain_embedding_share`:
          1 / (L + 1), that of a plain network.
    """
    last = len(magnitudes) - 1
    relative = [
        (magnitudes[k, k] / magnitudes[k, : k + 1].mean().clamp_min(torch.finfo(torch.float64).tiny)).item()
        for k in range(1, last)
    ]
    return {
        "lambda_shape": _lambda_shape(magnitudes),
        "parallel_pairs": [
            {"branches": [k, k + 1], "relative_weight": weight}
            for k, weight in enumerate(relative)
            if weight <= PARALLEL_THRESHOLD
        ],
        "relative_weights": relative,
        "embedding_share": (magnitudes[last, 0] / magnitudes[last].sum()).item(),
        "plain_embedding_share": 1 / (last + 1),
    }


def _lambda_shape(magnitudes: Tensor) -> dict[str, Any] | None:
    rows = range(_NEAR + _EARLY, len(magnitudes) - 1)
    if not rows:
        return None
    shares = [magnitudes[k, : k + 1] / magnitudes[k, : k + 1].sum() for k in rows]
    plain = [1 / (k + 1) for k in rows]
    mean = 1 / len(rows)
    return {
        "near": mean * sum(share[-_NEAR:].sum().item() for share in shares),
        "early": mean * sum(share[:_EARLY].sum().item() for share in shares),
        "plain": {"near": mean * _NEAR * sum(plain), "early": mean * _EARLY * sum(plain)},
    }
