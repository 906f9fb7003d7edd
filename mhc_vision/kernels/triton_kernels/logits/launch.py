"""Launches of the logits and their gradients."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from mhc_vision.kernels.triton_kernels.logits.backward import phi_backward_kernel, streams_backward_kernel
from mhc_vision.kernels.triton_kernels.logits.forward import forward_kernel, prepare_kernel
from mhc_vision.kernels.triton_kernels.precision import precision
from mhc_vision.kernels.triton_kernels.tiles import tile, token_splits

# tile of the gradient of φ
GRADIENT_TOKENS, GRADIENT_CHANNELS = 32, 64


class Projection(NamedTuple):
    """φ as the kernels read it: (2, n*C, K) in bf16, high and low part, or (1, n*C, K) in fp32; K is k padded."""

    phi: Tensor
    num_logits: int

    @property
    def options(self) -> dict[str, int | bool]:
        """Compile-time arguments of the kernels that use it."""
        return {"PADDED_LOGITS": self.phi.shape[2], "SPLIT": self.phi.shape[0] == 2}


def prepare(weight: Tensor, streams_dtype: torch.dtype) -> Projection:
    """φᵀ (k, n*C), contiguous, for streams of this dtype."""
    num_logits, num_rows = weight.shape
    padded = max(16, triton.next_power_of_2(num_logits))
    split = streams_dtype != torch.float32
    phi = weight.new_empty(1 + split, num_rows, padded, dtype=torch.bfloat16 if split else torch.float32)
    block = 32
    prepare_kernel[(triton.cdiv(num_rows, block),)](
        weight, phi, num_rows, num_logits, PADDED_LOGITS=padded, SPLIT=split, BLOCK=block
    )
    return Projection(phi, num_logits)


def forward(streams: Tensor, projection: Projection, scale: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(M, n, C), φ, (k,), (k,), all contiguous -> logits (M, k) and inverse RMS (M,), fp32."""
    num_tokens, n, dim = streams.shape
    logits = streams.new_empty(num_tokens, projection.num_logits, dtype=torch.float32)
    inverse_rms = streams.new_empty(num_tokens, dtype=torch.float32)
    blocks = tile("logits", n)
    forward_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        streams,
        projection.phi,
        scale,
        bias,
        logits,
        inverse_rms,
        num_tokens,
        dim,
        projection.num_logits,
        eps,
        NUM_STREAMS=n,
        PRECISION=precision(streams.dtype),
        **projection.options,
        **blocks,
    )
    return logits, inverse_rms


def streams_backward(
    d_logits: Tensor,
    logits: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    projection: Projection,
    scale: Tensor,
    bias: Tensor,
    d_tokens: Tensor | None = None,
    d_handed_on: Tensor | None = None,
) -> Tensor:
    """Gradient of the streams; `d_tokens`, of what was read, and `d_handed_on`, of later uses, are given together."""
    num_tokens, n, dim = streams.shape
    d_streams = torch.empty_like(streams)
    blocks = tile("logits_backward", n)
    streams_backward_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        d_logits,
        logits,
        inverse_rms,
        scale,
        bias,
        streams,
        projection.phi,
        d_tokens,
        d_handed_on,
        d_streams,
        num_tokens,
        dim,
        projection.num_logits,
        NUM_STREAMS=n,
        READ=d_tokens is not None,
        PRECISION=precision(streams.dtype),
        **projection.options,
        **blocks,
    )
    return d_streams


def parameters_backward(
    d_logits: Tensor, inverse_rms: Tensor, streams: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight (k, n*C), scale (k,) and bias (k,), the last in fp32, from that of the logits, (M, k)."""
    num_logits, num_rows = weight.shape
    num_tokens = len(inverse_rms)
    splits, tokens_per_split = token_splits(num_tokens, GRADIENT_TOKENS)
    padded = max(16, triton.next_power_of_2(num_logits))
    partial, d_bias = d_logits.new_empty(splits, num_rows, padded), d_logits.new_empty(splits, padded)
    phi_backward_kernel[(triton.cdiv(num_rows, GRADIENT_CHANNELS), splits)](
        d_logits,
        inverse_rms,
        streams,
        partial,
        d_bias,
        num_tokens,
        num_rows,
        num_logits,
        tokens_per_split,
        PADDED_LOGITS=padded,
        SPLIT=streams.dtype != torch.float32,
        PRECISION=precision(streams.dtype),
        BLOCK_TOKENS=GRADIENT_TOKENS,
        BLOCK_CHANNELS=GRADIENT_CHANNELS,
        num_warps=4,
        num_stages=1,
    )
    unscaled = partial.sum(0)[:, :num_logits].t().contiguous()
    return (
        (unscaled * scale.unsqueeze(-1)).to(weight.dtype),
        (unscaled * weight).sum(1).to(scale.dtype),
        d_bias.sum(0)[:num_logits],
    )
