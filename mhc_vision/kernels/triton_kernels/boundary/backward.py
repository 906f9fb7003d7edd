"""Kernel of the boundary, backward: the gradients of each token."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.boundary.device import (
    load_branch,
    load_fp32,
    load_keep,
    load_pre,
    load_res,
    load_streams,
    merged_stream,
    parted,
    rounded,
)
from mhc_vision.kernels.triton_kernels.device import (
    along_phi,
    load_entries,
    load_logits,
    split_bf16,
    store_entries,
    sum_in_thread,
)


@triton.jit
def _norm_sums(
    d_normed_ptr, norm_weight_ptr, x_ptr, f_ptr, gamma_ptr, keep, res, post, row, dim, row_stride, stream_stride,
    NUM_STREAMS: tl.constexpr, MASKED: tl.constexpr, FENCE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, IN_THREAD: tl.constexpr,
):  # fmt: skip
    """Sums over channels of d = weight · dy, or dy without a norm, and of d times each merged stream."""
    total = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // IN_THREAD], tl.float32)
    by_stream = ()
    for _ in tl.static_range(NUM_STREAMS):
        by_stream = by_stream + (tl.zeros_like(total),)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        inside = channel < dim
        f = load_branch(f_ptr, gamma_ptr, keep, row, channel, inside, dim, MASKED)
        x = load_streams(x_ptr, row, channel, inside, row_stride, stream_stride, NUM_STREAMS, MASKED)
        d = load_fp32(d_normed_ptr + row[:, None] * dim + channel[None, :], inside[None, :], MASKED)
        if norm_weight_ptr is not None:
            d *= load_fp32(norm_weight_ptr + channel, inside, MASKED)[None, :]
        total += sum_in_thread(d, BLOCK_TOKENS, BLOCK_CHANNELS, IN_THREAD)
        new_by_stream = ()
        for i in tl.static_range(NUM_STREAMS):
            stream = rounded(merged_stream(res, post, x, f, i, NUM_STREAMS), x_ptr.dtype.element_ty, FENCE)
            product = sum_in_thread(d * stream.to(tl.float32), BLOCK_TOKENS, BLOCK_CHANNELS, IN_THREAD)
            new_by_stream = new_by_stream + (by_stream[i] + product,)
        by_stream = new_by_stream
    sums = ()
    for i in tl.static_range(NUM_STREAMS):
        sums = sums + (tl.sum(by_stream[i], 1),)
    return tl.sum(total, 1), sums


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_sample"])
def streams_backward_kernel(
    d_merged_ptr,
    d_normed_ptr,
    d_rest_ptr,
    x_ptr,
    f_ptr,
    gamma_ptr,
    keep_ptr,
    maps_ptr,
    made_ptr,
    statistics_ptr,
    phi_ptr,
    scale_ptr,
    bias_ptr,
    norm_weight_ptr,
    d_x_ptr,
    d_f_ptr,
    d_maps_ptr,
    d_pre_ptr,
    d_gamma_ptr,
    num_tokens,
    dim,
    x_token_stride,
    x_stream_stride,
    tokens_per_sample,
    num_logits,
    NUM_STREAMS: tl.constexpr,
    PADDED_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    NORM: tl.constexpr,
    FENCE: tl.constexpr,
    MIX: tl.constexpr,
    ENTRY: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    IN_THREAD: tl.constexpr,
):
    """Gradients of X, F, the logits of post and pre and the matrices res; X' is made again, rounded as before.

    As in `forward_kernel`, nothing may have been merged, mixed, read or normed, and X' may have no later use.

    The gradient of X' has four parts: that of its later use, that of what was read, and the two of the logits, along φ
    and along X'. LayerNorm's is du = rstd (d - mean(d) - û mean(d û)) with d = weight · dy and û = (u - mean) rstd, and
    u is linear in `pre`: a first loop sums what a token needs, and leaves X, F and dy in the cache for the second. With
    ENTRY the streams were one, whose gradient is the sum of theirs. `d_gamma` gets partial sums.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    row = tl.minimum(token, num_tokens - 1)
    post = ()
    res = ()
    if f_ptr is not None:
        post = load_entries(maps_ptr + row, num_tokens, NUM_STREAMS)
        res = load_res(maps_ptr + row, num_tokens, NUM_STREAMS, MIX)
    keep = load_keep(keep_ptr, row, tokens_per_sample)
    if d_normed_ptr is not None:
        pre = load_pre(made_ptr + row, num_tokens, NUM_STREAMS)
    statistics = load_entries(statistics_ptr + row, num_tokens, 1 if NORM == "none" else 3 + 2 * NUM_STREAMS)
    if d_normed_ptr is not None:
        d_sum, by_stream = _norm_sums(
            d_normed_ptr, norm_weight_ptr, x_ptr, f_ptr, gamma_ptr, keep, res, post, row, dim, x_token_stride,
            x_stream_stride, NUM_STREAMS, MASKED, FENCE, BLOCK_TOKENS, BLOCK_CHANNELS, IN_THREAD,
        )  # fmt: skip
        if NORM != "none":
            mean = statistics[1]
            rstd = statistics[2]
            d_mean = d_sum / dim if NORM == "layer" else tl.zeros_like(d_sum)
            # the mean over channels of d · û, with u = Σ pre_j X'_j
            d_along = -mean * d_sum
            for j in tl.static_range(NUM_STREAMS):
                d_along += pre[j] * by_stream[j]
            d_along *= rstd / dim
            by_du = ()
            for j in tl.static_range(NUM_STREAMS):
                by_mean = by_stream[j] - d_mean * statistics[3 + j]
                by_du = by_du + (rstd * (by_mean - d_along * rstd * statistics[3 + NUM_STREAMS + j]),)
            by_stream = by_du
            mean = mean[:, None]
            rstd = rstd[:, None]
            d_mean = d_mean[:, None]
            d_along = d_along[:, None]
        d_pre = ()
        for j in tl.static_range(NUM_STREAMS):
            d_pre = d_pre + (by_stream[j] * pre[j] * (1.0 - pre[j]),)
        store_entries(d_pre_ptr + row, d_pre, rows, num_tokens)
        # the next load is of what other threads have stored
        tl.debug_barrier()
    k = tl.arange(0, PADDED_LOGITS)
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    d_made = load_logits(d_pre_ptr, d_rest_ptr, row, rows, k, num_logits, num_tokens, NUM_STREAMS)
    side = k[None, :].to(tl.int64) * num_tokens + row[:, None]
    made = tl.load(made_ptr + side, mask=(k < num_logits)[None, :], other=0.0)
    along_x = -tl.sum(d_made * (made - bias[None, :]), 1) * statistics[0] * statistics[0] / (NUM_STREAMS * dim)
    along_x = along_x[:, None]
    high = d_made * scale[None, :] * statistics[0][:, None]
    low = high
    if SPLIT:
        high, low = split_bf16(high)
    d_post = ()
    for _ in tl.static_range(len(post)):
        d_post = d_post + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // IN_THREAD], tl.float32),)
    d_res = ()
    for _ in tl.static_range(len(res)):
        d_res = d_res + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // IN_THREAD], tl.float32),)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        inside = channel < dim
        mask = rows[:, None] & inside[None, :]
        at = row[:, None] * dim + channel[None, :]
        scaled = 0.0
        if f_ptr is not None:
            f = load_fp32(f_ptr + at, inside[None, :], MASKED)
            scaled = f
            if gamma_ptr is not None:
                gamma = load_fp32(gamma_ptr + channel, inside, MASKED)[None, :]
                scaled *= gamma
            scaled *= keep
        x = load_streams(x_ptr, row, channel, inside, x_token_stride, x_stream_stride, NUM_STREAMS, MASKED)
        merged = ()
        for i in tl.static_range(NUM_STREAMS):
            stream = rounded(merged_stream(res, post, x, scaled, i, NUM_STREAMS), x_ptr.dtype.element_ty, FENCE)
            merged = merged + (stream.to(tl.float32),)
        if d_normed_ptr is not None:
            du = load_fp32(d_normed_ptr + at, inside[None, :], MASKED)
            if NORM != "none":
                u = pre[0][:, None] * merged[0]
                for i in tl.static_range(1, NUM_STREAMS):
                    u += pre[i][:, None] * merged[i]
                du *= load_fp32(norm_weight_ptr + channel, inside, MASKED)[None, :]
                du = rstd * (du - d_mean - (u - mean) * rstd * d_along)
        wide = start * PADDED_STREAMS + tl.arange(0, BLOCK_CHANNELS * PADDED_STREAMS)
        made_by = along_phi(
            high, low, phi_ptr, wide, dim * PADDED_STREAMS, PADDED_LOGITS, SPLIT, MASKED, PRECISION, BLOCK_TOKENS,
            BLOCK_CHANNELS * PADDED_STREAMS,
        )  # fmt: skip
        totals = parted(made_by, PADDED_STREAMS, BLOCK_TOKENS, BLOCK_CHANNELS)
        d = ()
        new_d_post = ()
        for i in tl.static_range(NUM_STREAMS):
            total = totals[i]
            if d_merged_ptr is not None:
                later = d_merged_ptr + row[:, None] * (NUM_STREAMS * dim) + i * dim + channel[None, :]
                total += load_fp32(later, inside[None, :], MASKED)
            if d_normed_ptr is not None:
                total += pre[i][:, None] * du
            total += along_x * merged[i]
            d = d + (total,)
        if f_ptr is not None:
            for i in tl.static_range(NUM_STREAMS):
                product = sum_in_thread(d[i] * scaled, BLOCK_TOKENS, BLOCK_CHANNELS, IN_THREAD)
                new_d_post = new_d_post + (d_post[i] + product,)
            d_post = new_d_post
            d_f = post[0][:, None] * d[0]
            for i in tl.static_range(1, NUM_STREAMS):
                d_f += post[i][:, None] * d[i]
            d_f *= keep
            if gamma_ptr is not None:
                d_gamma_at = tl.program_id(0).to(tl.int64) * dim + channel
                tl.store(d_gamma_ptr + d_gamma_at, tl.sum(tl.where(rows[:, None], d_f * f, 0.0), 0), mask=inside)
                d_f *= gamma
            tl.store(d_f_ptr + at, d_f.to(d_f_ptr.dtype.element_ty), mask=mask)
        new_d_res = ()
        d_entry = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
        for j in tl.static_range(NUM_STREAMS):
            d_x = d[j]
            if MIX:
                d_x = res[j][:, None] * d[0]
                for i in tl.static_range(1, NUM_STREAMS):
                    d_x += res[i * NUM_STREAMS + j][:, None] * d[i]
                for i in tl.static_range(NUM_STREAMS):
                    product = sum_in_thread(d[i] * x[j], BLOCK_TOKENS, BLOCK_CHANNELS, IN_THREAD)
                    new_d_res = new_d_res + (d_res[j * NUM_STREAMS + i] + product,)
            if ENTRY:
                d_entry += d_x
            else:
                d_x_at = row[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
                tl.store(d_x_ptr + d_x_at, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)
        d_res = new_d_res
        if ENTRY:
            tl.store(d_x_ptr + at, d_entry.to(d_x_ptr.dtype.element_ty), mask=mask)
    if f_ptr is not None:
        d_maps = ()
        for i in tl.static_range(NUM_STREAMS):
            # post = 2σ
            d_maps = d_maps + (tl.sum(d_post[i], 1) * post[i] * (1.0 - 0.5 * post[i]),)
        if MIX:
            for i in tl.static_range(NUM_STREAMS):
                for j in tl.static_range(NUM_STREAMS):
                    d_maps = d_maps + (tl.sum(d_res[j * NUM_STREAMS + i], 1),)
        store_entries(d_maps_ptr + row, d_maps, rows, num_tokens)
