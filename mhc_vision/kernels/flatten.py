"""Between the free leading dimensions of the public ops and the (M, ...) token dimension of their arithmetic."""

import torch
from torch import Tensor


def flatten_tokens(tensor: Tensor, ndim: int, dtype: torch.dtype) -> Tensor:
    """(..., *trailing) -> (M, *trailing) with `ndim` trailing dimensions, in `dtype`."""
    return tensor.reshape(-1, *tensor.shape[tensor.dim() - ndim :]).to(dtype)


def expand_map(coefficients: Tensor, ndim: int, num_tokens: int, dtype: torch.dtype) -> Tensor:
    """A map per token, or one shared by all tokens, as (M, *trailing); a shared one is expanded, not copied."""
    trailing = coefficients.shape[coefficients.dim() - ndim :]
    return flatten_tokens(coefficients, ndim, dtype).expand(num_tokens, *trailing)


def sum_to_map(gradient: Tensor, coefficients: Tensor, ndim: int) -> Tensor:
    """The gradient (M, *trailing) of an expanded map, in the shape and dtype of the map itself."""
    if coefficients.dim() == ndim:
        gradient = gradient.sum(0)
    return gradient.to(coefficients.dtype).reshape(coefficients.shape)


def flatten_contiguous(tensor: Tensor, ndim: int) -> Tensor:
    """(..., *trailing) -> (M, *trailing) with `ndim` trailing dimensions, contiguous, as the Triton kernels read it."""
    return tensor.reshape(-1, *tensor.shape[tensor.dim() - ndim :]).contiguous()


def contiguous_map(coefficients: Tensor, ndim: int) -> Tensor:
    """A map per token as (M, *trailing), or one shared by all tokens as it is; contiguous."""
    return coefficients.contiguous() if coefficients.dim() == ndim else flatten_contiguous(coefficients, ndim)
