"""Sinkhorn-Knopp inside a kernel, for up to four streams: a matrix is n*n vectors over the tokens of a tile."""

import triton
import triton.language as tl


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
