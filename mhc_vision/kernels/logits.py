"""Logits: linear maps of the normalised streams, from which a token makes its coefficients."""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels import reference
from mhc_vision.kernels.backend import is_traced, runs_triton
from mhc_vision.kernels.checks import check_eps, check_floating, check_shape, check_streams
from mhc_vision.kernels.custom_ops.branch_input import BranchInput
from mhc_vision.kernels.flatten import flatten_contiguous
from mhc_vision.kernels.precision import full_precision
from mhc_vision.kernels.prepared_phi import prepare_phi


def stream_logits(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """Linear maps of the RMS-normalised, flattened streams: the logits of token-dependent coefficients.

    scale ∘ (rms_norm(vec(X)) · weightᵀ) + bias, with the division by the RMS after the matrix product (mHC,
    arXiv 2512.24880, Eq. 14-16). A norm weight would be absorbed in `weight`.

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        weight: φᵀ, (k, n*C).
        scale: α, (k,), one per logit.
        bias: b, (k,).
        eps: added to the mean square, positive.

    Returns:
        (..., k) in fp32, or fp64 for fp64 streams.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices, or `eps` out
            of range.
    """
    return (
        reference.stream_logits(streams, weight, scale, bias, eps)
        if torch.jit.is_scripting()
        else _unscripted(streams, weight, scale, bias, eps)
    )


def _unscripted(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    if is_traced():
        return reference.stream_logits(streams, weight, scale, bias, eps)
    check_logit_parameters(streams, weight, scale, bias, eps)
    if runs_triton(streams, streams.shape[-1]):
        made = BranchInput.apply(*prepared_arguments(streams, weight, scale, bias, eps), False, None)
        return tokens_first(made, streams)
    return full_precision(reference.stream_logits)(streams, weight, scale, bias, eps)


def prepared_arguments(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> tuple[Any, ...]:
    """As `BranchInput` takes them, φ twice: the weight, which has a gradient, and what the kernels multiply with."""
    phi = prepare_phi([weight], streams.shape[-2], streams.dtype)[0]
    return flatten_contiguous(streams, 2), weight.contiguous(), scale.contiguous(), bias.contiguous(), phi, eps


def tokens_first(logits: Tensor, streams: Tensor) -> Tensor:
    """(k, M) -> (..., k), a view."""
    return logits.t().view(*streams.shape[:-2], len(logits))


def check_logit_parameters(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> None:
    """Raise ValueError unless the parameters make k logits from these streams."""
    check_eps(eps)
    check_streams(streams)
    check_floating(bias, "bias")
    num_logits = bias.numel()
    check_shape(weight, "weight", streams, (num_logits, streams.shape[-2:].numel()))
    check_shape(scale, "scale", streams, (num_logits,))
    check_shape(bias, "bias", streams, (num_logits,))
