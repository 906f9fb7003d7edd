"""How much residual maps amplify: the Amax gains of the mHC paper, and how far a map is from doubly stochastic.

L branches, n streams. Maps `res` are (..., n, n), `[out, in]`; leading dimensions are tokens, or missing where all
tokens share a map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def forward_gain(res: Tensor) -> Tensor:
    """Largest absolute row sum, averaged over tokens: how much a map amplifies streams (arXiv 2512.24880, Sec. 3.1).

    Args:
        res: (..., n, n).

    Returns:
        A scalar; 1 for a plain residual.
    """
    return res.sum(-1).abs().amax(-1).mean()


def backward_gain(res: Tensor) -> Tensor:
    """Largest absolute column sum, averaged over tokens: how much a map amplifies gradients (the same section).

    Args:
        res: (..., n, n).

    Returns:
        A scalar; 1 for a plain residual.
    """
    return res.sum(-2).abs().amax(-1).mean()


def column_residual(res: Tensor) -> Tensor:
    """Largest |log column sum| of each map: what Sinkhorn-Knopp, which ends with the rows, has left of the columns.

    A gain is a maximum, which hides columns that attenuate; this measure counts both directions.

    Args:
        res: (..., n, n); with a column sum that is not positive the result is NaN or infinite.

    Returns:
        (...); 0 for doubly stochastic maps.
    """
    return res.sum(-2).log().abs().amax(-1)


def column_error(res: Tensor) -> Tensor:
    """The largest `column_residual` over tokens, a scalar."""
    return column_residual(res).amax()


def composite_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    """The product of all maps from each branch to the last one.

    Args:
        maps: `res` of the L branches, in order.

    Returns:
        L products; entry l is res_{L-1} · ... · res_l, what the streams before branch l become at the end, so the
        first one spans the whole network.
    """
    products: list[Tensor] = []
    for res in reversed(maps):
        products.append(torch.matmul(products[-1], res) if products else res)
    return products[::-1]
