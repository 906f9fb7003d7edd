"""Kernel of the boundary, forward: merge, logits and LayerNorm's statistics, then what the next branch reads."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.boundary.device import (
    joined,
    load_branch,
    load_fp32,
    load_keep,
    load_pre,
    load_streams,
    merge_maps,
    merged_stream,
    rounded,
)
from mhc_vision.kernels.triton_kernels.device import add_products, store_entries, sum_in_thread


@triton.jit
def _first_means(
    x_ptr, f_ptr, gamma_ptr, keep, res, post, row, dim, row_stride, stream_stride,
    NUM_STREAMS: tl.constexpr, MASKED: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The mean of the first channels of each merged stream, (tokens, 1)."""
    channel = tl.arange(0, BLOCK_CHANNELS)
    inside = channel < dim
    f = load_branch(f_ptr, gamma_ptr, keep, row, channel, inside, dim, MASKED)
    x = load_streams(x_ptr, row, channel, inside, row_stride, stream_stride, NUM_STREAMS, MASKED)
    means = ()
    for i in tl.static_range(NUM_STREAMS):
        total = tl.sum(merged_stream(res, post, x, f, i, NUM_STREAMS), 1, keep_dims=True)
        means = means + (total / tl.minimum(dim, BLOCK_CHANNELS),)
    return means


@triton.jit
def _norm_statistics(pre, totals, means, gram, dim, eps, NUM_STREAMS: tl.constexpr):
    """Mean and inverse standard deviation of u = Σ pre_j X'_j, and what the backward pass needs of each stream.

    From the means of the streams and, of the streams less their pivots, sums over channels and of products, `gram`.
    """
    mean = pre[0] * means[0]
    for j in tl.static_range(1, NUM_STREAMS):
        mean += pre[j] * means[j]
    # sums over channels of the products of centred streams, (n, n), and of what u has with each
    products = ()
    for i in tl.static_range(NUM_STREAMS):
        for j in tl.static_range(NUM_STREAMS):
            if i <= j:
                product = tl.sum(gram[i * NUM_STREAMS - i * (i - 1) // 2 + j - i], 1) - totals[i] * totals[j] / dim
            else:
                product = products[j * NUM_STREAMS + i]
            products = products + (product,)
    covariances = ()
    variance = tl.zeros_like(mean)
    for j in tl.static_range(NUM_STREAMS):
        covariance = pre[0] * products[j]
        for i in tl.static_range(1, NUM_STREAMS):
            covariance += pre[i] * products[i * NUM_STREAMS + j]
        covariances = covariances + (covariance,)
        variance += pre[j] * covariance
    # rounding may leave a variance of zero below it
    rstd = tl.rsqrt(tl.maximum(variance, 0.0, propagate_nan=tl.PropagateNan.ALL) / dim + eps)
    by_stream = ()
    for j in tl.static_range(NUM_STREAMS):
        by_stream = by_stream + (means[j] * dim,)
    return (mean, rstd) + by_stream + covariances


@triton.jit
def _read_norm(
    x_ptr, pre, statistics, weight_ptr, bias_ptr, out_ptr, row, rows, dim,
    NUM_STREAMS: tl.constexpr, MASKED: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """What `pre` reads; with a weight its LayerNorm, or with a mean of 0 its RMS norm: `Made` lists the statistics."""
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        inside = channel < dim
        x = load_streams(x_ptr, row, channel, inside, NUM_STREAMS * dim, dim, NUM_STREAMS, MASKED)
        u = pre[0][:, None] * x[0]
        for j in tl.static_range(1, NUM_STREAMS):
            u += pre[j][:, None] * x[j]
        if weight_ptr is not None:
            weight = load_fp32(weight_ptr + channel, inside, MASKED)[None, :]
            u = (u - statistics[1][:, None]) * statistics[2][:, None] * weight
        if bias_ptr is not None:
            u += load_fp32(bias_ptr + channel, inside, MASKED)[None, :]
        at = row[:, None] * dim + channel[None, :]
        tl.store(out_ptr + at, u.to(out_ptr.dtype.element_ty), mask=rows[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_sample", "num_iters"])
def forward_kernel(
    x_ptr,
    f_ptr,
    logits_ptr,
    gamma_ptr,
    keep_ptr,
    phi_ptr,
    scale_ptr,
    bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    out_ptr,
    maps_ptr,
    made_ptr,
    statistics_ptr,
    normed_ptr,
    num_tokens,
    dim,
    x_token_stride,
    x_stream_stride,
    tokens_per_sample,
    num_logits,
    num_iters,
    eps,
    norm_eps,
    NUM_STREAMS: tl.constexpr,
    PADDED_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    NORM: tl.constexpr,
    FENCE: tl.constexpr,
    MIX: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    IN_THREAD: tl.constexpr,
):
    """X, F, logits -> maps, X', rounded, the logits that X' makes, what they read, normed, and its statistics.

    Without F, X' is X, and not stored; without MIX, res is the identity; without memory for it, nothing is read. Equal
    streams are one, with a stream stride of 0. A second loop finds X' in the cache where C is small enough. NORM is
    `layer`, `rms` or `none`. Mean and variance of u = Σ pre_j X'_j come from sums and products of the streams, less the
    mean of their first channels: what a token's channels have in common would drown the variance. For an RMS norm the
    mean counts as 0.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    row = tl.minimum(token, num_tokens - 1)
    res = ()
    post = ()
    if f_ptr is not None:
        res, post = merge_maps(logits_ptr + row, num_tokens, num_iters, NUM_STREAMS, MIX, BLOCK_TOKENS)
        store_entries(maps_ptr + row, post + res, rows, num_tokens)
    keep = load_keep(keep_ptr, row, tokens_per_sample)
    pivots = ()
    sums = ()
    gram = ()
    if NORM == "layer":
        pivots = _first_means(
            x_ptr, f_ptr, gamma_ptr, keep, res, post, row, dim, x_token_stride, x_stream_stride,
            NUM_STREAMS, MASKED, BLOCK_CHANNELS,
        )  # fmt: skip
    for i in tl.static_range(NUM_STREAMS):
        if NORM != "layer":
            pivots = pivots + (tl.zeros([BLOCK_TOKENS, 1], tl.float32),)
        sums = sums + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // IN_THREAD], tl.float32),)
        # without a norm, it holds the squares alone
        for _ in tl.static_range(i, i + 1 if NORM == "none" else NUM_STREAMS):
            gram = gram + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // IN_THREAD], tl.float32),)
    k = tl.arange(0, PADDED_LOGITS)
    along_phi = tl.zeros([BLOCK_TOKENS, PADDED_LOGITS], tl.float32)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        inside = channel < dim
        f = load_branch(f_ptr, gamma_ptr, keep, row, channel, inside, dim, MASKED)
        x = load_streams(x_ptr, row, channel, inside, x_token_stride, x_stream_stride, NUM_STREAMS, MASKED)
        merged = ()
        centred = ()
        new_sums = ()
        new_gram = ()
        for i in tl.static_range(NUM_STREAMS):
            stream = rounded(merged_stream(res, post, x, f, i, NUM_STREAMS), x_ptr.dtype.element_ty, FENCE)
            if f_ptr is not None:
                at = row[:, None] * (NUM_STREAMS * dim) + i * dim + channel[None, :]
                tl.store(out_ptr + at, stream, mask=rows[:, None] & inside[None, :])
            merged = merged + (stream,)
            deviation = stream.to(tl.float32) - pivots[i]
            if MASKED:
                deviation = tl.where(inside[None, :], deviation, 0.0)
            total = sums[i]
            if NORM == "layer":
                total += sum_in_thread(deviation, BLOCK_TOKENS, BLOCK_CHANNELS, IN_THREAD)
            new_sums = new_sums + (total,)
            centred = centred + (deviation,)
        sums = new_sums
        for i in tl.static_range(NUM_STREAMS):
            for j in tl.static_range(i, i + 1 if NORM == "none" else NUM_STREAMS):
                product = sum_in_thread(centred[i] * centred[j], BLOCK_TOKENS, BLOCK_CHANNELS, IN_THREAD)
                new_gram = new_gram + (gram[len(new_gram)] + product,)
        gram = new_gram
        along_phi = add_products(
            along_phi,
            joined(merged, NUM_STREAMS, PADDED_STREAMS, BLOCK_TOKENS, BLOCK_CHANNELS),
            phi_ptr,
            start * PADDED_STREAMS + tl.arange(0, BLOCK_CHANNELS * PADDED_STREAMS),
            dim * PADDED_STREAMS,
            PADDED_LOGITS,
            SPLIT,
            MASKED,
            PRECISION,
        )
    squares = tl.zeros([BLOCK_TOKENS], tl.float32)
    totals = ()
    means = ()
    for i in tl.static_range(NUM_STREAMS):
        totals = totals + (tl.sum(sums[i], 1),)
        pivot = tl.sum(pivots[i], 1)
        means = means + (totals[i] / dim + pivot,)
        square = tl.sum(gram[i if NORM == "none" else i * NUM_STREAMS - i * (i - 1) // 2], 1)
        squares += square + pivot * (2.0 * totals[i] + dim * pivot)
    inverse_rms = tl.rsqrt(squares / (NUM_STREAMS * dim) + eps)
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    made = along_phi * inverse_rms[:, None] * scale[None, :] + bias[None, :]
    at = k[None, :].to(tl.int64) * num_tokens + row[:, None]
    tl.store(made_ptr + at, made, mask=rows[:, None] & (k < num_logits)[None, :])
    statistics = (inverse_rms,)
    if normed_ptr is not None:
        # what follows loads what other threads have stored: logits and streams
        tl.debug_barrier()
        pre = load_pre(made_ptr + row, num_tokens, NUM_STREAMS)
        if NORM != "none":
            statistics = statistics + _norm_statistics(pre, totals, means, gram, dim, norm_eps, NUM_STREAMS)
    store_entries(statistics_ptr + row, statistics, rows, num_tokens)
    if normed_ptr is not None:
        _read_norm(
            x_ptr if f_ptr is None else out_ptr, pre, statistics, norm_weight_ptr, norm_bias_ptr, normed_ptr,
            row, rows, dim, NUM_STREAMS, MASKED, BLOCK_CHANNELS,
        )  # fmt: skip
