"""Kernels for five to eight streams: a tile of tokens is one (tokens, 8, 8) tensor.

As vectors, as in `vectors`, the 64 entries of a matrix and those of its gradient would not fit the registers.
"""

import triton
import triton.language as tl

BLOCK_TOKENS = 16
# rows and columns of a matrix
PADDED = 8


@triton.jit
def _scalings(kernel, vector, present, AXIS: tl.constexpr):
    """1 / (Kᵀ r) for AXIS 1, 1 / (K c) for AXIS 2; zero in the padding."""
    total = tl.sum(kernel * tl.expand_dims(vector, 3 - AXIS), AXIS)
    return tl.where(present, 1.0 / total, 0.0)


@triton.jit
def _exponentials(logits_ptr, token, num_tokens, NUM_STREAMS: tl.constexpr, PADDED: tl.constexpr):
    """K = exp(L - column maximum), zero in the padding; where its entries are, which exist, which are clamped."""
    i = tl.arange(0, PADDED)
    at = token[:, None, None] * (NUM_STREAMS * NUM_STREAMS) + i[None, :, None] * NUM_STREAMS + i[None, None, :]
    inside = (i < NUM_STREAMS)[None, :, None] & (i < NUM_STREAMS)[None, None, :]
    mask = (token < num_tokens)[:, None, None] & inside
    logits = tl.load(logits_ptr + at, mask=mask, other=0.0)
    # a maximum would hide NaN: it comes back by addition
    largest = tl.max(tl.where(inside, logits, float("-inf")), 1)
    spread = logits - tl.expand_dims(tl.where(i[None, :] < NUM_STREAMS, largest, 0.0), 1)
    not_a_number = tl.sum(tl.where(logits != logits, logits, 0.0), 1)
    clamped = spread <= -80.0
    kernel = tl.exp(tl.where(clamped, -80.0, spread)) + tl.expand_dims(not_a_number, 1)
    return tl.where(inside, kernel, 0.0), at, mask, clamped


@triton.jit(do_not_specialize=["num_tokens", "num_iters"])
def forward_kernel(
    logits_ptr,
    out_ptr,
    num_tokens,
    num_iters,
    NUM_STREAMS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """(M, n, n) -> (M, n, n)."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    kernel, at, mask, _ = _exponentials(logits_ptr, token, num_tokens, NUM_STREAMS, PADDED)
    present = (tl.arange(0, PADDED) < NUM_STREAMS)[None, :] & (token >= 0)[:, None]
    rows = tl.where(present, tl.full([BLOCK_TOKENS, PADDED], 1.0, tl.float32), 0.0)
    columns = rows
    for _ in range(num_iters):
        columns = _scalings(kernel, rows, present, 1)
        rows = _scalings(kernel, columns, present, 2)
    tl.store(out_ptr + at, kernel * tl.expand_dims(columns, 1) * tl.expand_dims(rows, 2), mask=mask)


@triton.jit(do_not_specialize=["num_tokens", "num_iters"])
def backward_kernel(
    d_out_ptr,
    logits_ptr,
    d_logits_ptr,
    scratch_ptr,
    num_tokens,
    num_iters,
    NUM_STREAMS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Gradient of the logits; the iterations run again and leave column scalings in scratch, (programs, t, tile, n)."""
    lane = tl.arange(0, BLOCK_TOKENS).to(tl.int64)
    i = tl.arange(0, PADDED)
    size: tl.constexpr = BLOCK_TOKENS * PADDED
    scratch = scratch_ptr + tl.program_id(0).to(tl.int64) * num_iters * size + lane[:, None] * PADDED + i[None, :]
    present = (i < NUM_STREAMS)[None, :] & (lane >= 0)[:, None]
    ones = tl.where(present, tl.full([BLOCK_TOKENS, PADDED], 1.0, tl.float32), 0.0)
    for tile in range(tl.program_id(0), tl.cdiv(num_tokens, BLOCK_TOKENS), tl.num_programs(0)):
        kernel, at, mask, clamped = _exponentials(
            logits_ptr, tile * BLOCK_TOKENS + lane, num_tokens, NUM_STREAMS, PADDED
        )
        d_out = tl.load(d_out_ptr + at, mask=mask, other=0.0)
        rows = ones
        columns = ones
        for t in range(num_iters):
            columns = _scalings(kernel, rows, present, 1)
            rows = _scalings(kernel, columns, present, 2)
            tl.store(scratch + t * size, columns)
        # the result is r K c: its three factors
        d_kernel = d_out * tl.expand_dims(rows, 2) * tl.expand_dims(columns, 1)
        d_rows = tl.sum(d_out * kernel * tl.expand_dims(columns, 1), 2)
        d_columns = tl.sum(d_out * kernel * tl.expand_dims(rows, 2), 1)
        for step in range(num_iters):
            t = num_iters - 1 - step
            # r_t = 1 / (K c_t) and c_t = 1 / (Kᵀ r_{t-1}), r_0 = 1
            d_row_sums = -d_rows * rows * rows
            d_columns += tl.sum(kernel * tl.expand_dims(d_row_sums, 2), 1)
            d_column_sums = -d_columns * columns * columns
            d_kernel += tl.expand_dims(d_row_sums, 2) * tl.expand_dims(columns, 1)
            columns = tl.load(scratch + tl.maximum(t - 1, 0) * size)
            rows = _scalings(kernel, columns, present, 2)
            if t == 0:
                rows = ones
            d_kernel += tl.expand_dims(rows, 2) * tl.expand_dims(d_column_sums, 1)
            d_rows = tl.sum(kernel * tl.expand_dims(d_column_sums, 1), 2)
            d_columns = tl.zeros([BLOCK_TOKENS, PADDED], tl.float32)
        tl.store(d_logits_ptr + at, tl.where(clamped, 0.0, d_kernel * kernel), mask=mask)
