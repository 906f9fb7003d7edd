"""Kernels of the boundary, backward: LayerNorm and read, then merge, logits and maps."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.boundary.device import (
    boundary_maps,
    load_keep,
    load_streams,
    merged_stream,
)
from mhc_vision.kernels.triton_kernels.device import load_entries, load_logits, split_bf16, sum_in_thread
from mhc_vision.kernels.triton_kernels.logits.backward import products_backward


@triton.jit(do_not_specialize=["num_tokens"])
def read_norm_backward_kernel(
    d_out_ptr,
    x_ptr,
    made_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    d_pre_ptr,
    d_mean_ptr,
    d_along_ptr,
    partial_ptr,
    num_tokens,
    dim,
    NUM_STREAMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradient of the first n logits, (n, M); what LayerNorm's backward subtracts; its partial sums, (tiles, 2, C).

    With d = d_out · weight and û = (u - mean) · rstd, LayerNorm gives du = rstd (d - mean(d) - û mean(d û)), and u is
    linear in `pre`: all that a token needs are sums over its channels of d, and of d, 1 and u - mean times each stream.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    pre = ()
    by_d = ()
    by_one = ()
    by_u = ()
    pre_logits = load_entries(made_ptr, token, rows, 1, num_tokens, NUM_STREAMS)
    for j in tl.static_range(NUM_STREAMS):
        pre = pre + (tl.sigmoid(pre_logits[j]),)
        by_d = by_d + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
        by_one = by_one + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
        by_u = by_u + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
    d_sum = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32)
    mean = tl.load(mean_ptr + token, mask=rows, other=0.0)
    rstd = tl.load(rstd_ptr + token, mask=rows, other=0.0)
    partial = partial_ptr + tl.program_id(0).to(tl.int64) * 2 * dim
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        x = ()
        u = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
        for j in tl.static_range(NUM_STREAMS):
            at = token[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
            stream = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            u += pre[j][:, None] * stream
            x = x + (stream,)
        centred = tl.where(mask, u - mean[:, None], 0.0)
        d_out = tl.load(d_out_ptr + token[:, None] * dim + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(partial + channel, tl.sum(d_out * centred * rstd[:, None], 0), mask=channel < dim)
        tl.store(partial + dim + channel, tl.sum(d_out, 0), mask=channel < dim)
        d = d_out * tl.load(weight_ptr + channel, mask=channel < dim, other=0.0).to(tl.float32)[None, :]
        d_sum += sum_in_thread(d, BLOCK_TOKENS, BLOCK_CHANNELS)
        new_by_d = ()
        new_by_one = ()
        new_by_u = ()
        for j in tl.static_range(NUM_STREAMS):
            new_by_d = new_by_d + (by_d[j] + sum_in_thread(d * x[j], BLOCK_TOKENS, BLOCK_CHANNELS),)
            new_by_one = new_by_one + (by_one[j] + sum_in_thread(x[j], BLOCK_TOKENS, BLOCK_CHANNELS),)
            new_by_u = new_by_u + (by_u[j] + sum_in_thread(centred * x[j], BLOCK_TOKENS, BLOCK_CHANNELS),)
        by_d = new_by_d
        by_one = new_by_one
        by_u = new_by_u
    d_mean = tl.sum(d_sum, 1) / dim
    # sum over channels of d · (u - mean), with u = Σ pre_j x_j
    along = -mean * d_mean * dim
    for j in tl.static_range(NUM_STREAMS):
        along += pre[j] * tl.sum(by_d[j], 1)
    d_along = along * rstd / dim
    tl.store(d_mean_ptr + token, d_mean, mask=rows)
    tl.store(d_along_ptr + token, d_along, mask=rows)
    for j in tl.static_range(NUM_STREAMS):
        d_pre = tl.sum(by_d[j], 1) - d_mean * tl.sum(by_one[j], 1) - d_along * rstd * tl.sum(by_u[j], 1)
        gradient = rstd * d_pre * pre[j] * (1.0 - pre[j])
        entries = d_pre_ptr + tl.full([], j, tl.int64) * num_tokens
        tl.store(entries + token, gradient, mask=rows)


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_sample", "num_iters"])
def merge_backward_kernel(
    d_merged_ptr,
    x_ptr,
    f_ptr,
    logits_ptr,
    gamma_ptr,
    keep_ptr,
    d_out_ptr,
    weight_ptr,
    mean_ptr,
    rstd_ptr,
    d_mean_ptr,
    d_along_ptr,
    made_ptr,
    d_pre_ptr,
    d_rest_ptr,
    inverse_rms_ptr,
    scale_ptr,
    bias_ptr,
    phi_ptr,
    d_x_ptr,
    d_f_ptr,
    d_post_ptr,
    d_res_ptr,
    d_gamma_ptr,
    num_tokens,
    dim,
    x_token_stride,
    x_stream_stride,
    tokens_per_sample,
    num_logits,
    num_iters,
    NUM_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    GAMMA: tl.constexpr,
    KEEP: tl.constexpr,
    ENTRY: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradients of X, F, the logits of post and the matrices res; X' is recomputed on chip, rounded as before.

    The gradient of X' has four parts: that of its later use, that of what was read, and the two of the logits, along φ
    and along X'. With ENTRY the streams were one, whose gradient is the sum of theirs. `d_gamma` gets partial sums.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    res, post = boundary_maps(logits_ptr, num_tokens, token, rows, num_iters, NUM_STREAMS, BLOCK_TOKENS)
    k = tl.arange(0, PADDED_LOGITS)
    side = k[None, :].to(tl.int64) * num_tokens + token[:, None]
    side_mask = rows[:, None] & (k < num_logits)[None, :]
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    d_made = load_logits(d_pre_ptr, d_rest_ptr, token, rows, k, num_logits, 1, num_tokens, NUM_STREAMS)
    made = tl.load(made_ptr + side, mask=side_mask, other=0.0)
    inverse_rms = tl.load(inverse_rms_ptr + token, mask=rows, other=0.0)
    along_x = -tl.sum(d_made * (made - bias[None, :]), 1) * inverse_rms * inverse_rms / (NUM_STREAMS * dim)
    along_x = along_x[:, None]
    high = d_made * scale[None, :] * inverse_rms[:, None]
    low = high
    if SPLIT:
        high, low = split_bf16(high)
    mean = tl.load(mean_ptr + token, mask=rows, other=0.0)[:, None]
    rstd = tl.load(rstd_ptr + token, mask=rows, other=0.0)[:, None]
    d_mean = tl.load(d_mean_ptr + token, mask=rows, other=0.0)[:, None]
    d_along = tl.load(d_along_ptr + token, mask=rows, other=0.0)[:, None]
    keep = load_keep(keep_ptr, token, rows, tokens_per_sample, KEEP)
    pre = ()
    d_post = ()
    pre_logits = load_entries(made_ptr, token, rows, 1, num_tokens, NUM_STREAMS)
    for i in tl.static_range(NUM_STREAMS):
        pre = pre + (tl.sigmoid(pre_logits[i])[:, None],)
        d_post = d_post + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
    d_res = ()
    for _ in tl.static_range(NUM_STREAMS * NUM_STREAMS):
        d_res = d_res + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        inside = (channel < dim)[None, :]
        mask = rows[:, None] & inside
        at = token[:, None] * dim + channel[None, :]
        f = tl.load(f_ptr + at, mask=mask, other=0.0).to(tl.float32)
        scaled = f
        if GAMMA:
            gamma = tl.load(gamma_ptr + channel, mask=channel < dim, other=0.0).to(tl.float32)[None, :]
            scaled *= gamma
        scaled *= keep
        x = load_streams(x_ptr, token, channel, mask, x_token_stride, x_stream_stride, NUM_STREAMS)
        merged = ()
        u = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
        for i in tl.static_range(NUM_STREAMS):
            stream = merged_stream(res, post, x, scaled, i, NUM_STREAMS)
            stream = stream.to(d_merged_ptr.dtype.element_ty).to(tl.float32)
            u += pre[i] * stream
            merged = merged + (stream,)
        du = tl.load(d_out_ptr + at, mask=mask, other=0.0).to(tl.float32)
        du *= tl.load(weight_ptr + channel, mask=channel < dim, other=0.0).to(tl.float32)[None, :]
        du = tl.where(mask, rstd * (du - d_mean - (u - mean) * rstd * d_along), 0.0)
        d = ()
        d_f = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
        new_d_post = ()
        for i in tl.static_range(NUM_STREAMS):
            phi_at = (i * dim + channel)[None, :] * PADDED_LOGITS + k[:, None]
            total = products_backward(high, low, phi_ptr, phi_at, inside, NUM_STREAMS * dim * PADDED_LOGITS, SPLIT)
            later_at = token[:, None] * (NUM_STREAMS * dim) + i * dim + channel[None, :]
            total += tl.load(d_merged_ptr + later_at, mask=mask, other=0.0).to(tl.float32)
            total += pre[i] * du + along_x * merged[i]
            d_f += post[i][:, None] * total
            new_d_post = new_d_post + (d_post[i] + sum_in_thread(total * scaled, BLOCK_TOKENS, BLOCK_CHANNELS),)
            d = d + (total,)
        d_post = new_d_post
        d_f *= keep
        if GAMMA:
            d_gamma_at = tl.program_id(0).to(tl.int64) * dim + channel
            tl.store(d_gamma_ptr + d_gamma_at, tl.sum(d_f * f, 0), mask=channel < dim)
            d_f *= gamma
        tl.store(d_f_ptr + at, d_f.to(d_f_ptr.dtype.element_ty), mask=mask)
        new_d_res = ()
        d_entry = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
        for j in tl.static_range(NUM_STREAMS):
            d_x = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
            for i in tl.static_range(NUM_STREAMS):
                d_x += res[i * NUM_STREAMS + j][:, None] * d[i]
                total = d_res[j * NUM_STREAMS + i] + sum_in_thread(d[i] * x[j], BLOCK_TOKENS, BLOCK_CHANNELS)
                new_d_res = new_d_res + (total,)
            if ENTRY:
                d_entry += d_x
            else:
                d_x_at = token[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
                tl.store(d_x_ptr + d_x_at, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)
        d_res = new_d_res
        if ENTRY:
            tl.store(d_x_ptr + at, d_entry.to(d_x_ptr.dtype.element_ty), mask=mask)
    for i in tl.static_range(NUM_STREAMS):
        # post = 2σ
        gradient = tl.sum(d_post[i], 1) * post[i] * (1.0 - 0.5 * post[i])
        entries = d_post_ptr + tl.full([], i, tl.int64) * num_tokens
        tl.store(entries + token, gradient, mask=rows)
        for j in tl.static_range(NUM_STREAMS):
            entries = d_res_ptr + tl.full([], i * NUM_STREAMS + j, tl.int64) * num_tokens
            tl.store(entries + token, tl.sum(d_res[j * NUM_STREAMS + i], 1), mask=rows)
