"""Kernels for up to four streams, and what others call to run the iterations inside their own.

A matrix is n*n vectors over the tokens of a tile.
"""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.device import load_entries

BLOCK_TOKENS = 128


@triton.jit
def exponentials(logits, NUM_STREAMS: tl.constexpr):
    """K = exp(L - column maximum), the spread clamped at -80; NaN stays NaN. Also says what was clamped.

    The column maximum may be subtracted because the first Sinkhorn step normalises columns.
    """
    values = ()
    clamped = ()
    for i in tl.static_range(NUM_STREAMS):
        for j in tl.static_range(NUM_STREAMS):
            largest = logits[j]
            for k in tl.static_range(1, NUM_STREAMS):
                largest = tl.maximum(largest, logits[k * NUM_STREAMS + j], propagate_nan=tl.PropagateNan.ALL)
            spread = logits[i * NUM_STREAMS + j] - largest
            clamped = clamped + (spread <= -80.0,)
            values = values + (tl.exp(tl.maximum(spread, -80.0, propagate_nan=tl.PropagateNan.ALL)),)
    return values, clamped


@triton.jit
def column_scalings(kernel, rows, NUM_STREAMS: tl.constexpr):
    """c = 1 / (Kᵀ r)."""
    columns = ()
    for j in tl.static_range(NUM_STREAMS):
        total = kernel[j] * rows[0]
        for i in tl.static_range(1, NUM_STREAMS):
            total += kernel[i * NUM_STREAMS + j] * rows[i]
        columns = columns + (1.0 / total,)
    return columns


@triton.jit
def row_scalings(kernel, columns, NUM_STREAMS: tl.constexpr):
    """r = 1 / (K c)."""
    rows = ()
    for i in tl.static_range(NUM_STREAMS):
        total = kernel[i * NUM_STREAMS] * columns[0]
        for j in tl.static_range(1, NUM_STREAMS):
            total += kernel[i * NUM_STREAMS + j] * columns[j]
        rows = rows + (1.0 / total,)
    return rows


@triton.jit
def constants(value, COUNT: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """COUNT vectors of one value."""
    vectors = ()
    for _ in tl.static_range(COUNT):
        vectors = vectors + (tl.full([BLOCK_TOKENS], value, tl.float32),)
    return vectors


@triton.jit
def sinkhorn_maps(logits, num_iters, NUM_STREAMS: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """Doubly stochastic matrices, n*n vectors over the tokens, from as many logits."""
    kernel, _clamped = exponentials(logits, NUM_STREAMS)
    rows = constants(1.0, NUM_STREAMS, BLOCK_TOKENS)
    columns = rows
    for _ in range(num_iters):
        columns = column_scalings(kernel, rows, NUM_STREAMS)
        rows = row_scalings(kernel, columns, NUM_STREAMS)
    matrices = ()
    for i in tl.static_range(NUM_STREAMS):
        for j in tl.static_range(NUM_STREAMS):
            matrices = matrices + (kernel[i * NUM_STREAMS + j] * columns[j] * rows[i],)
    return matrices


@triton.jit(do_not_specialize=["num_tokens", "num_iters"])
def forward_kernel(logits_ptr, out_ptr, num_tokens, num_iters, NUM_STREAMS: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """(M, n, n) -> (M, n, n)."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    size: tl.constexpr = NUM_STREAMS * NUM_STREAMS
    row = tl.minimum(token, num_tokens - 1)
    matrices = sinkhorn_maps(load_entries(logits_ptr + row * size, 1, size), num_iters, NUM_STREAMS, BLOCK_TOKENS)
    for e in tl.static_range(size):
        tl.store(out_ptr + token * size + e, matrices[e], mask=rows)


@triton.jit(do_not_specialize=["num_tokens", "num_iters", "entry_stride"])
def backward_kernel(
    d_out_ptr,
    logits_ptr,
    d_logits_ptr,
    scratch_ptr,
    num_tokens,
    num_iters,
    token_stride,
    entry_stride,
    NUM_STREAMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Gradient of the logits; the iterations run again and leave column scalings in scratch, (programs, t, n, tile)."""
    size: tl.constexpr = NUM_STREAMS * NUM_STREAMS
    lane = tl.arange(0, BLOCK_TOKENS).to(tl.int64)
    scratch = scratch_ptr + tl.program_id(0).to(tl.int64) * num_iters * NUM_STREAMS * BLOCK_TOKENS + lane
    for tile in range(tl.program_id(0), tl.cdiv(num_tokens, BLOCK_TOKENS), tl.num_programs(0)):
        token = tile * BLOCK_TOKENS + lane
        mask = token < num_tokens
        at = tl.minimum(token, num_tokens - 1) * token_stride
        kernel, clamped = exponentials(load_entries(logits_ptr + at, entry_stride, size), NUM_STREAMS)
        d_out = load_entries(d_out_ptr + at, entry_stride, size)
        rows = constants(1.0, NUM_STREAMS, BLOCK_TOKENS)
        columns = rows
        for t in range(num_iters):
            columns = column_scalings(kernel, rows, NUM_STREAMS)
            rows = row_scalings(kernel, columns, NUM_STREAMS)
            for j in tl.static_range(NUM_STREAMS):
                tl.store(scratch + (t * NUM_STREAMS + j) * BLOCK_TOKENS, columns[j])

        # the result is r K c: its three factors
        d_kernel = ()
        d_rows = ()
        for i in tl.static_range(NUM_STREAMS):
            total = tl.zeros([BLOCK_TOKENS], tl.float32)
            for j in tl.static_range(NUM_STREAMS):
                d_kernel = d_kernel + (d_out[i * NUM_STREAMS + j] * rows[i] * columns[j],)
                total += d_out[i * NUM_STREAMS + j] * kernel[i * NUM_STREAMS + j] * columns[j]
            d_rows = d_rows + (total,)
        d_columns = ()
        for j in tl.static_range(NUM_STREAMS):
            total = tl.zeros([BLOCK_TOKENS], tl.float32)
            for i in tl.static_range(NUM_STREAMS):
                total += d_out[i * NUM_STREAMS + j] * kernel[i * NUM_STREAMS + j] * rows[i]
            d_columns = d_columns + (total,)

        for step in range(num_iters):
            t = num_iters - 1 - step
            # r_t = 1 / (K c_t); multiplied twice rather than by the square, which could overflow
            d_row_sums = ()
            for i in tl.static_range(NUM_STREAMS):
                d_row_sums = d_row_sums + (-d_rows[i] * rows[i] * rows[i],)
            # c_t = 1 / (Kᵀ r_{t-1}), r_0 = 1
            d_column_sums = ()
            for j in tl.static_range(NUM_STREAMS):
                total = d_columns[j]
                for i in tl.static_range(NUM_STREAMS):
                    total += kernel[i * NUM_STREAMS + j] * d_row_sums[i]
                d_column_sums = d_column_sums + (-total * columns[j] * columns[j],)
            earlier_columns = ()
            for j in tl.static_range(NUM_STREAMS):
                earlier = scratch + (tl.maximum(t - 1, 0) * NUM_STREAMS + j) * BLOCK_TOKENS
                earlier_columns = earlier_columns + (tl.load(earlier),)
            earlier_rows = row_scalings(kernel, earlier_columns, NUM_STREAMS)
            if t == 0:
                earlier_rows = constants(1.0, NUM_STREAMS, BLOCK_TOKENS)
            new_d_kernel = ()
            d_rows = ()
            for i in tl.static_range(NUM_STREAMS):
                total = tl.zeros([BLOCK_TOKENS], tl.float32)
                for j in tl.static_range(NUM_STREAMS):
                    new_d_kernel = new_d_kernel + (
                        d_kernel[i * NUM_STREAMS + j] + d_row_sums[i] * columns[j] + earlier_rows[i] * d_column_sums[j],
                    )
                    total += kernel[i * NUM_STREAMS + j] * d_column_sums[j]
                d_rows = d_rows + (total,)
            d_kernel = new_d_kernel
            d_columns = constants(0.0, NUM_STREAMS, BLOCK_TOKENS)
            rows = earlier_rows
            columns = earlier_columns
        entry = d_logits_ptr + token * token_stride
        for e in tl.static_range(size):
            gradient = tl.where(clamped[e], 0.0, d_kernel[e] * kernel[e])
            tl.store(entry, gradient, mask=mask)
            entry += entry_stride
