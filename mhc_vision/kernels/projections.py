"""Projections of single streams: the dynamic part of DHC."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.kernels.checks import check_eps, check_floating, check_shape, check_streams
from mhc_vision.kernels.precision import accumulation_dtype, full_precision
from mhc_vision.kernels.tracing import is_traced


def project_streams(
    streams: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, eps: float = 1e-6
) -> Tensor:
    """LayerNorm each stream over its channels, then project it.

    norm(H) W of the dynamic hyper-connections (HC, arXiv 2409.19606, Eq. 10-13), before tanh.

    Args:
        streams: (..., n, C), floating-point, n from 1 to 8.
        norm_weight: of the LayerNorm, (C,).
        norm_bias: of the LayerNorm, (C,).
        weight: Wᵀ, (k, C).
        eps: of the LayerNorm, positive.

    Returns:
        (..., n, k) in fp32, or fp64 for fp64 streams.

    Raises:
        ValueError: shapes that do not belong together, a dtype that is not floating-point, mixed devices, or `eps` out
            of range.
    """
    if torch.jit.is_scripting():
        projections = _project_streams(streams, norm_weight, norm_bias, weight, eps)
    elif is_traced():
        projections = _project_streams(streams, norm_weight, norm_bias, weight, eps)
    else:
        check_eps(eps)
        check_streams(streams)
        dim = streams.shape[-1]
        check_shape(norm_weight, "norm_weight", streams, (dim,))
        check_shape(norm_bias, "norm_bias", streams, (dim,))
        check_floating(weight, "weight")
        check_shape(weight, "weight", streams, (weight.numel() // dim, dim))
        projections = full_precision(_project_streams)(streams, norm_weight, norm_bias, weight, eps)
    return projections


def _project_streams(streams: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, eps: float) -> Tensor:
    dtype = accumulation_dtype(streams.dtype)
    # C from a parameter: legacy ONNX export with a dynamic batch does not know the shape of the streams
    shape = list(norm_weight.shape)
    normed = F.layer_norm(streams.to(dtype), shape, norm_weight.to(dtype), norm_bias.to(dtype), eps)
    return F.linear(normed, weight.to(dtype))
