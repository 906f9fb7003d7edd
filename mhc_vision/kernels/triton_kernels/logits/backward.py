"""Kernels of the gradients of the logits: one for X, one for φ and the bias."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.device import add_split_products, along_phi, split_bf16


@triton.jit(do_not_specialize=["num_tokens"])
def streams_backward_kernel(
    d_logits_ptr,
    logits_ptr,
    inverse_rms_ptr,
    scale_ptr,
    bias_ptr,
    x_ptr,
    phi_ptr,
    d_tokens_ptr,
    d_handed_on_ptr,
    d_x_ptr,
    num_tokens,
    dim,
    num_logits,
    NUM_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    READ: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradient of X from that of the logits; with READ also from what σ of the first n read, and from later uses.

    With s the inverse RMS and p = X φ, logits = scale p s + bias and ds/dX = -s³ X / (n C), so that
    dX = (d_logits scale s) φᵀ - Σ d_logits (logits - bias) s² / (n C) X.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    k = tl.arange(0, PADDED_LOGITS)
    side = token[:, None] * num_logits + k[None, :]
    side_mask = rows[:, None] & (k < num_logits)[None, :]
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    d_logits = tl.load(d_logits_ptr + side, mask=side_mask, other=0.0)
    logits = tl.load(logits_ptr + side, mask=side_mask, other=0.0)
    inverse_rms = tl.load(inverse_rms_ptr + token, mask=rows, other=0.0)
    along_x = -tl.sum(d_logits * (logits - bias[None, :]), 1) * inverse_rms * inverse_rms / (NUM_STREAMS * dim)
    high = d_logits * scale[None, :] * inverse_rms[:, None]
    low = high
    if SPLIT:
        high, low = split_bf16(high)
    pre = ()
    if READ:
        for j in tl.static_range(NUM_STREAMS):
            logit = tl.load(logits_ptr + token * num_logits + j, mask=rows, other=0.0)
            pre = pre + (tl.sigmoid(logit)[:, None],)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        if READ:
            d_tokens_at = token[:, None] * dim + channel[None, :]
            d_tokens = tl.load(d_tokens_ptr + d_tokens_at, mask=mask, other=0.0).to(tl.float32)
        for j in tl.static_range(NUM_STREAMS):
            row = tl.minimum(channel, dim - 1) + j * dim
            d_x = along_phi(
                high, low, phi_ptr, row, NUM_STREAMS * dim, PADDED_LOGITS, SPLIT, False, PRECISION, BLOCK_TOKENS,
                BLOCK_CHANNELS,
            )  # fmt: skip
            at = token[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
            d_x += along_x[:, None] * tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            if READ:
                d_x += pre[j] * d_tokens
                d_x += tl.load(d_handed_on_ptr + at, mask=mask, other=0.0).to(tl.float32)
            tl.store(d_x_ptr + at, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_split"])
def phi_backward_kernel(
    d_logits_ptr,
    inverse_rms_ptr,
    x_ptr,
    partial_ptr,
    d_bias_ptr,
    num_tokens,
    num_rows,
    num_logits,
    tokens_per_split,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Partial sums over tokens: (splits, n*C, K) of Xᵀ (d_logits · inverse RMS), and (splits, K) of d_logits."""
    row = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = (row < num_rows)[:, None]
    k = tl.arange(0, PADDED_LOGITS)
    total = tl.zeros([BLOCK_CHANNELS, PADDED_LOGITS], tl.float32)
    d_bias = tl.zeros([BLOCK_TOKENS, PADDED_LOGITS], tl.float32)
    first = tl.program_id(1) * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, num_tokens), BLOCK_TOKENS):
        token = (start + tl.arange(0, BLOCK_TOKENS)).to(tl.int64)
        rows = token < num_tokens
        x_at = token[None, :] * num_rows + row[:, None]
        x = tl.load(x_ptr + x_at, mask=rows[None, :] & inside, other=0.0)
        d_at = token[:, None] * num_logits + k[None, :]
        d = tl.load(d_logits_ptr + d_at, mask=rows[:, None] & (k < num_logits)[None, :], other=0.0)
        d_bias += d
        d *= tl.load(inverse_rms_ptr + token, mask=rows, other=0.0)[:, None]
        total = add_split_products(total, x, d, SPLIT, PRECISION)
    at = (tl.program_id(1).to(tl.int64) * num_rows + row)[:, None] * PADDED_LOGITS + k[None, :]
    tl.store(partial_ptr + at, total, mask=inside)
    # the programs of all channels sum the same; one of them writes
    if tl.program_id(0) == 0:
        tl.store(d_bias_ptr + tl.program_id(1) * PADDED_LOGITS + k, tl.sum(d_bias, 0))
