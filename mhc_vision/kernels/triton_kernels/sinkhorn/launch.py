"""Launches of Sinkhorn-Knopp, on vectors or on matrices by the number of streams."""

import torch
import triton
from torch import Tensor

from mhc_vision.kernels.checks import MAX_FUSED_STREAMS
from mhc_vision.kernels.triton_kernels.sinkhorn import matrices, vectors

# programs of the backward pass, each with a scratch of its own; what a token gets does not depend on it
MAX_PROGRAMS = 512


def forward(logits: Tensor, num_iters: int) -> Tensor:
    """(M, n, n) contiguous fp32 -> the same."""
    maps = torch.empty_like(logits)
    num_tokens, n, _ = logits.shape
    if n <= MAX_FUSED_STREAMS:
        grid = (triton.cdiv(num_tokens, vectors.BLOCK_TOKENS),)
        vectors.forward_kernel[grid](
            logits, maps, num_tokens, num_iters, NUM_STREAMS=n, BLOCK_TOKENS=vectors.BLOCK_TOKENS
        )
    else:
        grid = (triton.cdiv(num_tokens, matrices.BLOCK_TOKENS),)
        matrices.forward_kernel[grid](
            logits,
            maps,
            num_tokens,
            num_iters,
            NUM_STREAMS=n,
            PADDED=matrices.PADDED,
            BLOCK_TOKENS=matrices.BLOCK_TOKENS,
        )
    return maps


def backward(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    """Gradient of the logits, all (M, n, n) contiguous fp32."""
    d_logits = torch.empty_like(logits)
    num_tokens, n, _ = logits.shape
    if n <= MAX_FUSED_STREAMS:
        vectors_backward(d_maps, logits, d_logits, num_iters, num_tokens, n, (n * n, 1))
    else:
        _matrices_backward(d_maps, logits, d_logits, num_iters)
    return d_logits


def vectors_backward(
    d_maps: Tensor,
    logits: Tensor,
    d_logits: Tensor,
    num_iters: int,
    num_tokens: int,
    n: int,
    strides: tuple[int, int],
) -> None:
    """Writes `d_logits` for up to four streams; the strides of all three are from token to token and entry to entry."""
    programs = min(triton.cdiv(num_tokens, vectors.BLOCK_TOKENS), MAX_PROGRAMS)
    scratch = logits.new_empty(programs, num_iters, n, vectors.BLOCK_TOKENS)
    vectors.backward_kernel[(programs,)](
        d_maps,
        logits,
        d_logits,
        scratch,
        num_tokens,
        num_iters,
        *strides,
        NUM_STREAMS=n,
        BLOCK_TOKENS=vectors.BLOCK_TOKENS,
    )


def _matrices_backward(d_maps: Tensor, logits: Tensor, d_logits: Tensor, num_iters: int) -> None:
    num_tokens, n, _ = logits.shape
    programs = min(triton.cdiv(num_tokens, matrices.BLOCK_TOKENS), MAX_PROGRAMS)
    scratch = logits.new_empty(programs, num_iters, matrices.BLOCK_TOKENS, matrices.PADDED)
    matrices.backward_kernel[(programs,)](
        d_maps,
        logits,
        d_logits,
        scratch,
        num_tokens,
        num_iters,
        NUM_STREAMS=n,
        PADDED=matrices.PADDED,
        BLOCK_TOKENS=matrices.BLOCK_TOKENS,
    )
