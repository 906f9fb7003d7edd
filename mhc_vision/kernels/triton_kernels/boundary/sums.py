"""Kernel that ends the boundary's backward pass: sums over tokens, and Sinkhorn-Knopp of each token."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.boundary.device import joined, load_pre
from mhc_vision.kernels.triton_kernels.device import add_split_products, load, load_entries, load_logits
from mhc_vision.kernels.triton_kernels.sinkhorn import iterate_backward


@triton.jit(do_not_specialize=["num_tokens", "num_iters", "tokens_per_split", "sinkhorn_rows"])
def sums_backward_kernel(
    d_maps_ptr,
    logits_ptr,
    scratch_ptr,
    d_pre_ptr,
    d_rest_ptr,
    d_normed_ptr,
    x_ptr,
    made_ptr,
    statistics_ptr,
    phi_ptr,
    scale_ptr,
    sums_ptr,
    d_scale_ptr,
    num_tokens,
    num_iters,
    sinkhorn_rows,
    dim,
    num_logits,
    tokens_per_split,
    NUM_STREAMS: tl.constexpr,
    PADDED_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_MATRICES: tl.constexpr,
):
    """Two things that need what `streams_backward_kernel` has written, and nothing of each other.

    The first `sinkhorn_rows` of the grid turn gradients of matrices, after the first n rows of `d_maps`, into those of
    logits. The others, one for each split of the tokens, write partial sums of their columns' channels: see
    `_sum_over_tokens`.
    """
    if tl.program_id(1) < sinkhorn_rows:
        if d_maps_ptr is not None:
            program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
            if program * BLOCK_MATRICES < num_tokens:
                after = tl.full([], NUM_STREAMS, tl.int64) * num_tokens
                iterate_backward(
                    d_maps_ptr + after, logits_ptr + after, d_maps_ptr + after, scratch_ptr, program, num_tokens,
                    num_iters, 1, num_tokens, NUM_STREAMS, BLOCK_MATRICES,
                )  # fmt: skip
    else:
        _sum_over_tokens(
            d_pre_ptr, d_rest_ptr, d_normed_ptr, x_ptr, made_ptr, statistics_ptr, phi_ptr, scale_ptr, sums_ptr,
            d_scale_ptr, tl.program_id(0), tl.program_id(1) - sinkhorn_rows, num_tokens, dim, num_logits,
            tokens_per_split, NUM_STREAMS, PADDED_STREAMS, PADDED_LOGITS, SPLIT, PRECISION, MASKED, BLOCK_TOKENS,
            BLOCK_CHANNELS,
        )  # fmt: skip


@triton.jit
def _sum_over_tokens(
    d_pre_ptr, d_rest_ptr, d_normed_ptr, x_ptr, made_ptr, statistics_ptr, phi_ptr, scale_ptr, sums_ptr, d_scale_ptr,
    tile, split, num_tokens, dim, num_logits, tokens_per_split, NUM_STREAMS: tl.constexpr, PADDED_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums over the tokens of a split, for one tile of channels.

    They are, side by side, gradients of φᵀ, (k, n*C); of weight and bias of the norm, (2, C); of the logits' bias,
    (k,). With X what makes the logits, d their gradient, dy that of the normed input of the branch and û what was
    normed, they are scale · Xᵀ (d · inverse RMS), dy û, dy and d. The scale's gradient, (k,), is to be summed over
    tiles, too. Without dy there are none of the norm.
    """
    channel = tile * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = channel < dim
    k = tl.arange(0, PADDED_LOGITS)
    d_phi = tl.zeros([BLOCK_CHANNELS * PADDED_STREAMS, PADDED_LOGITS], tl.float32)
    d_weight = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
    d_shift = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
    d_bias = tl.zeros([BLOCK_TOKENS, PADDED_LOGITS], tl.float32)
    first = split * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, num_tokens), BLOCK_TOKENS):
        token = (start + tl.arange(0, BLOCK_TOKENS)).to(tl.int64)
        rows = token < num_tokens
        row = tl.minimum(token, num_tokens - 1)
        if d_normed_ptr is not None:
            pre = load_pre(made_ptr + row, num_tokens, NUM_STREAMS)
        statistics = load_entries(statistics_ptr + row, num_tokens, 1 if d_normed_ptr is None else 3)
        d = load_logits(d_pre_ptr, d_rest_ptr, row, rows, k, num_logits, num_tokens, NUM_STREAMS)
        d_bias += d
        d *= statistics[0][:, None]
        x = ()
        for j in tl.static_range(NUM_STREAMS):
            at = row[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
            x = x + (load(x_ptr + at, inside[None, :], MASKED),)
        across = tl.trans(joined(x, NUM_STREAMS, PADDED_STREAMS, BLOCK_TOKENS, BLOCK_CHANNELS))
        d_phi = add_split_products(d_phi, across, d, SPLIT, PRECISION)
        if d_normed_ptr is not None:
            u = pre[0][:, None] * x[0].to(tl.float32)
            for j in tl.static_range(1, NUM_STREAMS):
                u += pre[j][:, None] * x[j].to(tl.float32)
            at = row[:, None] * dim + channel[None, :]
            d_normed = tl.load(d_normed_ptr + at, mask=rows[:, None] & inside[None, :], other=0.0).to(tl.float32)
            d_weight += d_normed * ((u - statistics[1][:, None]) * statistics[2][:, None])
            d_shift += d_normed
    num_rows = dim * PADDED_STREAMS
    row = tile * (BLOCK_CHANNELS * PADDED_STREAMS) + tl.arange(0, BLOCK_CHANNELS * PADDED_STREAMS)
    at = row[:, None] * PADDED_LOGITS + k[None, :]
    phi = tl.zeros_like(d_phi)
    for part in tl.static_range(1 + SPLIT):
        phi += load(phi_ptr + part * num_rows * PADDED_LOGITS + at, (row < num_rows)[:, None], MASKED).to(tl.float32)
    d_scale = tl.sum(d_phi * phi, 0)
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    # rows of φ are (channel, stream), columns of its transpose (stream, channel)
    stream, of_row = row % PADDED_STREAMS, row // PADDED_STREAMS
    at = k[:, None] * (NUM_STREAMS * dim) + (stream * dim + of_row)[None, :]
    mask = (k < num_logits)[:, None] & ((of_row < dim) & (stream < NUM_STREAMS))[None, :]
    size = num_logits * (NUM_STREAMS * dim)
    sums_ptr += split.to(tl.int64) * (size + (0 if d_normed_ptr is None else 2 * dim) + num_logits)
    tl.store(sums_ptr + at, tl.trans(d_phi * scale[None, :]), mask=mask)
    sums_ptr += size
    if d_normed_ptr is not None:
        tl.store(sums_ptr + channel, tl.sum(d_weight, 0), mask=inside)
        tl.store(sums_ptr + dim + channel, tl.sum(d_shift, 0), mask=inside)
        sums_ptr += 2 * dim
    # the programs of all tiles have the same; one of them writes
    if tile == 0:
        tl.store(sums_ptr + k, tl.sum(d_bias, 0), mask=k < num_logits)
    tl.store(d_scale_ptr + (split * tl.num_programs(0) + tile) * num_logits + k, d_scale, mask=k < num_logits)
