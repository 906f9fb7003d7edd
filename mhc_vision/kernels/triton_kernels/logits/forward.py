"""Kernels of the logits, forward; first φ is brought into the form that all kernels read."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.device import add_products, split_bf16, sum_in_thread


@triton.jit
def prepare_kernel(
    weight_ptr, phi_ptr, num_rows, num_logits, PADDED_LOGITS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):
    """φᵀ (k, n*C) -> φ (1 or 2, n*C, K), zero in the padding."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, PADDED_LOGITS)
    mask = (row < num_rows)[:, None]
    weight_at = k[None, :] * num_rows + row[:, None]
    weight = tl.load(weight_ptr + weight_at, mask=mask & (k < num_logits)[None, :], other=0.0).to(tl.float32)
    at = row[:, None] * PADDED_LOGITS + k[None, :]
    if SPLIT:
        high, low = split_bf16(weight)
        tl.store(phi_ptr + at, high, mask=mask)
        tl.store(phi_ptr + num_rows * PADDED_LOGITS + at, low, mask=mask)
    else:
        tl.store(phi_ptr + at, weight, mask=mask)


@triton.jit(do_not_specialize=["num_tokens"])
def forward_kernel(
    x_ptr,
    phi_ptr,
    scale_ptr,
    bias_ptr,
    logits_ptr,
    inverse_rms_ptr,
    num_tokens,
    dim,
    num_logits,
    eps,
    NUM_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """(M, n, C) -> logits (M, k) and the inverse RMS (M,)."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    k = tl.arange(0, PADDED_LOGITS)
    products = tl.zeros([BLOCK_TOKENS, PADDED_LOGITS], tl.float32)
    squares = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        for j in tl.static_range(NUM_STREAMS):
            at = token[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
            x = tl.load(x_ptr + at, mask=mask, other=0.0)
            # channels past the last are zero in x; φ has other rows there
            row = tl.minimum(channel, dim - 1) + j * dim
            products = add_products(
                products, x, phi_ptr, row, NUM_STREAMS * dim, PADDED_LOGITS, SPLIT, False, PRECISION
            )
            x = x.to(tl.float32)
            squares += sum_in_thread(x * x, BLOCK_TOKENS, BLOCK_CHANNELS)
    inverse_rms = tl.rsqrt(tl.sum(squares, 1) / (NUM_STREAMS * dim) + eps)
    tl.store(inverse_rms_ptr + token, inverse_rms, mask=rows)
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    logits = products * inverse_rms[:, None] * scale[None, :] + bias[None, :]
    at = token[:, None] * num_logits + k[None, :]
    tl.store(logits_ptr + at, logits, mask=rows[:, None] & (k < num_logits)[None, :])
