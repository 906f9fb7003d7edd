"""Kernels of the boundary, forward: merge and logits, then read and LayerNorm."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.boundary.device import (
    boundary_maps,
    load_branch,
    load_keep,
    load_streams,
    merged_stream,
)
from mhc_vision.kernels.triton_kernels.device import load_entries, sum_in_thread
from mhc_vision.kernels.triton_kernels.logits.forward import add_products


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_sample", "num_iters"])
def merge_logits_kernel(
    x_ptr,
    f_ptr,
    logits_ptr,
    gamma_ptr,
    keep_ptr,
    phi_ptr,
    scale_ptr,
    bias_ptr,
    out_ptr,
    made_ptr,
    inverse_rms_ptr,
    num_tokens,
    dim,
    x_token_stride,
    x_stream_stride,
    tokens_per_sample,
    num_logits,
    num_iters,
    eps,
    NUM_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    GAMMA: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """X, F, logits -> X', rounded, and the logits that X' makes. Equal streams are one, with a stream stride of 0."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    res, post = boundary_maps(logits_ptr, num_tokens, token, rows, num_iters, NUM_STREAMS, BLOCK_TOKENS)
    k = tl.arange(0, PADDED_LOGITS)
    products = tl.zeros([BLOCK_TOKENS, PADDED_LOGITS], tl.float32)
    squares = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32)
    keep = load_keep(keep_ptr, token, rows, tokens_per_sample, KEEP)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        f = load_branch(f_ptr, gamma_ptr, keep, token, channel, mask, dim, GAMMA)
        x = load_streams(x_ptr, token, channel, mask, x_token_stride, x_stream_stride, NUM_STREAMS)
        for i in tl.static_range(NUM_STREAMS):
            rounded = merged_stream(res, post, x, f, i, NUM_STREAMS).to(out_ptr.dtype.element_ty)
            at = token[:, None] * (NUM_STREAMS * dim) + i * dim + channel[None, :]
            tl.store(out_ptr + at, rounded, mask=mask)
            merged = rounded.to(tl.float32)
            squares += sum_in_thread(merged * merged, BLOCK_TOKENS, BLOCK_CHANNELS)
            phi_at = (i * dim + channel)[:, None] * PADDED_LOGITS + k[None, :]
            inside = (channel < dim)[:, None]
            products = add_products(products, merged, phi_ptr, phi_at, inside, NUM_STREAMS * dim * PADDED_LOGITS, SPLIT)
    inverse_rms = tl.rsqrt(tl.sum(squares, 1) / (NUM_STREAMS * dim) + eps)
    tl.store(inverse_rms_ptr + token, inverse_rms, mask=rows)
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    made = products * inverse_rms[:, None] * scale[None, :] + bias[None, :]
    at = k[None, :].to(tl.int64) * num_tokens + token[:, None]
    tl.store(made_ptr + at, made, mask=rows[:, None] & (k < num_logits)[None, :])


@triton.jit(do_not_specialize=["num_tokens"])
def read_norm_kernel(
    x_ptr,
    made_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    mean_ptr,
    rstd_ptr,
    num_tokens,
    eps,
    DIM: tl.constexpr,
    NUM_STREAMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """LayerNorm of what σ of the first n logits read; a row stays in registers between its mean and its output."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    pre = load_entries(made_ptr, token, rows, 1, num_tokens, NUM_STREAMS)
    read = ()
    total = tl.zeros([BLOCK_TOKENS], tl.float32)
    for chunk in tl.static_range((DIM + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS):
        channel = chunk * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < DIM)[None, :]
        u = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
        for j in tl.static_range(NUM_STREAMS):
            at = token[:, None] * (NUM_STREAMS * DIM) + j * DIM + channel[None, :]
            u += tl.sigmoid(pre[j])[:, None] * tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(u, 1)
        read = read + (u,)
    mean = total / DIM
    variance = tl.zeros([BLOCK_TOKENS], tl.float32)
    for chunk in tl.static_range((DIM + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS):
        channel = chunk * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        centred = tl.where((channel < DIM)[None, :], read[chunk] - mean[:, None], 0.0)
        variance += tl.sum(centred * centred, 1)
    rstd = tl.rsqrt(variance / DIM + eps)
    tl.store(mean_ptr + token, mean, mask=rows)
    tl.store(rstd_ptr + token, rstd, mask=rows)
    for chunk in tl.static_range((DIM + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS):
        channel = chunk * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        weight = tl.load(weight_ptr + channel, mask=channel < DIM, other=0.0).to(tl.float32)[None, :]
        bias = tl.load(bias_ptr + channel, mask=channel < DIM, other=0.0).to(tl.float32)[None, :]
        y = (read[chunk] - mean[:, None]) * rstd[:, None] * weight + bias
        mask = rows[:, None] & (channel < DIM)[None, :]
        tl.store(out_ptr + token[:, None] * DIM + channel[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)
