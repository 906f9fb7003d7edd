"""Combinations of fixed matrices, for constraints that need no iteration."""

import torch
from torch import Tensor

from mhc_vision.kernels.precision import full_precision


def combine_matrices(weights: Tensor, matrices: Tensor) -> Tensor:
    """Weighted sums of fixed matrices, in the dtype of the weights whatever autocast says.

    Args:
        weights: (..., k).
        matrices: (k, n*n), one flattened matrix per row.

    Returns:
        (..., n*n).
    """
    matrices = matrices.to(weights.dtype)
    return (
        torch.matmul(weights, matrices) if torch.jit.is_scripting() else full_precision(torch.matmul)(weights, matrices)
    )
