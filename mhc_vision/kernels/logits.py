"""Logits: the linear maps of the normalised streams, from which a token makes its coefficients."""

import torch
from torch import Tensor

from mhc_vision.kernels import reference, triton_ops
from mhc_vision.kernels.backend import runs_triton
from mhc_vision.kernels.checks import check_eps, check_floating, check_shape, check_streams
from mhc_vision.kernels.flatten import flatten_contiguous
from mhc_vision.kernels.precision import full_precision
from mhc_vision.kernels.tracing import is_traced


def stream_logits(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """Linear maps of the RMS-normalised, flattened streams: the logits behind token-dependent coefficients.

    scale ∘ (rms_norm(vec(X)) · weightᵀ) + bias, with the division by the RMS after the matrix product (mHC,
    arXiv 2512.24880, Eq. 14-16). A norm weight would be absorbed in `weight`.

    Args:
        streams: X, (..., n, C), floating-point, n from 1 to 8.
        weight: φᵀ, (k, n*C).
        scale: α, (k,), one for each logit.
        bias: b, (k,).
        eps: added to the mean square, positive.

    Returns:
        (..., k) in fp32, or fp64 for fp64 streams.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices, or `eps` out
            of range.
    """
    if torch.jit.is_scripting():
        logits = reference.stream_logits(streams, weight, scale, bias, eps)
    elif is_traced():
        logits = reference.stream_logits(streams, weight, scale, bias, eps)
    else:
        check_logit_parameters(streams, weight, scale, bias, eps)
        if runs_triton(streams, streams.shape[-1]):
            parameters = (parameter.contiguous() for parameter in (weight, scale, bias))
            made, _ = triton_ops.logits(flatten_contiguous(streams, 2), *parameters, eps)
            return made.view(*streams.shape[:-2], bias.numel())
        logits = full_precision(reference.stream_logits)(streams, weight, scale, bias, eps)
    return logits


def check_logit_parameters(streams: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, eps: float) -> None:
    """Raise ValueError unless the parameters make k logits from these streams."""
    check_eps(eps)
    check_streams(streams)
    check_floating(bias, "bias")
    num_logits = bias.numel()
    check_shape(weight, "weight", streams, (num_logits, streams.shape[-2:].numel()))
    check_shape(scale, "scale", streams, (num_logits,))
    check_shape(bias, "bias", streams, (num_logits,))
