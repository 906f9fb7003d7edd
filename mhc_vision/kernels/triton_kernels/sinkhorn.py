"""Sinkhorn-Knopp and the exact gradient of its iterations: one thread a matrix, whose entries are vectors over tokens.

In scaling form the iterates are diag(r) K diag(c), with K = exp(L - column maximum).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mhc_vision.kernels.triton_kernels.device import load_entries, store_entries
from mhc_vision.kernels.triton_kernels.tiles import num_threads, num_tiles

# what a program that only iterates needs: threads share nothing
NUM_WARPS = 1


@triton.jit
def exponentials(logits, NUM_STREAMS: tl.constexpr):
    """K = exp(L - column maximum), the spread clamped at -80; NaN stays NaN. Also says what was clamped.

    The column maximum may be subtracted because the first Sinkhorn step normalises columns.
    """
    largest = ()
    for j in tl.static_range(NUM_STREAMS):
        maximum = logits[j]
        for i in tl.static_range(1, NUM_STREAMS):
            maximum = tl.maximum(maximum, logits[i * NUM_STREAMS + j], propagate_nan=tl.PropagateNan.ALL)
        largest = largest + (maximum,)
    values = ()
    clamped = ()
    for i in tl.static_range(NUM_STREAMS):
        for j in tl.static_range(NUM_STREAMS):
            spread = logits[i * NUM_STREAMS + j] - largest[j]
            clamped = clamped + (spread <= -80.0,)
            values = values + (tl.exp(tl.maximum(spread, -80.0, propagate_nan=tl.PropagateNan.ALL)),)
    return values, clamped


@triton.jit
def along_columns(kernel, rows, NUM_STREAMS: tl.constexpr):
    """Kᵀ r."""
    sums = ()
    for j in tl.static_range(NUM_STREAMS):
        total = kernel[j] * rows[0]
        for i in tl.static_range(1, NUM_STREAMS):
            total = tl.fma(kernel[i * NUM_STREAMS + j], rows[i], total)
        sums = sums + (total,)
    return sums


@triton.jit
def along_rows(kernel, columns, NUM_STREAMS: tl.constexpr):
    """K c."""
    sums = ()
    for i in tl.static_range(NUM_STREAMS):
        total = kernel[i * NUM_STREAMS] * columns[0]
        for j in tl.static_range(1, NUM_STREAMS):
            total = tl.fma(kernel[i * NUM_STREAMS + j], columns[j], total)
        sums = sums + (total,)
    return sums


@triton.jit
def inverses(sums, NUM_STREAMS: tl.constexpr):
    """1 / s of each."""
    scalings = ()
    for i in tl.static_range(NUM_STREAMS):
        scalings = scalings + (1.0 / sums[i],)
    return scalings


@triton.jit
def d_inverses(d_scalings, scalings, NUM_STREAMS: tl.constexpr):
    """The gradient of s from that of 1 / s; multiplied twice rather than by the square, which could overflow."""
    d_sums = ()
    for i in tl.static_range(NUM_STREAMS):
        d_sums = d_sums + (-d_scalings[i] * scalings[i] * scalings[i],)
    return d_sums


@triton.jit
def constants(value, COUNT: tl.constexpr, BLOCK_MATRICES: tl.constexpr):
    """COUNT vectors of one value."""
    vectors = ()
    for _ in tl.static_range(COUNT):
        vectors = vectors + (tl.full([BLOCK_MATRICES], value, tl.float32),)
    return vectors


@triton.jit
def iterate(logits, num_iters, NUM_STREAMS: tl.constexpr, BLOCK_MATRICES: tl.constexpr):
    """Doubly stochastic matrices, n*n vectors over the tokens, from as many logits."""
    kernel, _clamped = exponentials(logits, NUM_STREAMS)
    rows = constants(1.0, NUM_STREAMS, BLOCK_MATRICES)
    columns = rows
    for _ in range(num_iters):
        columns = inverses(along_columns(kernel, rows, NUM_STREAMS), NUM_STREAMS)
        rows = inverses(along_rows(kernel, columns, NUM_STREAMS), NUM_STREAMS)
    matrices = ()
    for i in tl.static_range(NUM_STREAMS):
        for j in tl.static_range(NUM_STREAMS):
            matrices = matrices + (kernel[i * NUM_STREAMS + j] * columns[j] * rows[i],)
    return matrices


@triton.jit
def iterate_backward(
    d_out_ptr, logits_ptr, d_logits_ptr, scratch_ptr, program, num_tokens, num_iters, token_stride, entry_stride,
    NUM_STREAMS: tl.constexpr, BLOCK_MATRICES: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of the logits of one program's tokens, where those of the matrices may have stood.

    The iterations run again and leave column scalings in scratch, (programs, t, n, tokens of a program). As many
    tokens as threads: each thread loads what it has stored itself.
    """
    size: tl.constexpr = NUM_STREAMS * NUM_STREAMS
    token = program.to(tl.int64) * BLOCK_MATRICES + tl.arange(0, BLOCK_MATRICES)
    at = tl.minimum(token, num_tokens - 1) * token_stride
    kernel, clamped = exponentials(load_entries(logits_ptr + at, entry_stride, size), NUM_STREAMS)
    rows = constants(1.0, NUM_STREAMS, BLOCK_MATRICES)
    columns = rows
    step: tl.constexpr = NUM_STREAMS * BLOCK_MATRICES
    scratch = scratch_ptr + program.to(tl.int64) * num_iters * step + tl.arange(0, BLOCK_MATRICES)
    for t in range(num_iters):
        columns = inverses(along_columns(kernel, rows, NUM_STREAMS), NUM_STREAMS)
        rows = inverses(along_rows(kernel, columns, NUM_STREAMS), NUM_STREAMS)
        for j in tl.static_range(NUM_STREAMS):
            tl.store(scratch + t * step + j * BLOCK_MATRICES, columns[j])

    # rows were normalised last: the result is r K c with r = 1 / (K c)
    d_out = load_entries(d_out_ptr + at, entry_stride, size)
    by_kernel = ()
    for e in tl.static_range(size):
        by_kernel = by_kernel + (d_out[e] * kernel[e],)
    d_row_sums = d_inverses(along_rows(by_kernel, columns, NUM_STREAMS), rows, NUM_STREAMS)
    d_kernel = ()
    by_kernel = ()
    for i in tl.static_range(NUM_STREAMS):
        for j in tl.static_range(NUM_STREAMS):
            along = tl.fma(d_out[i * NUM_STREAMS + j], rows[i], d_row_sums[i])
            d_kernel = d_kernel + (along * columns[j],)
            by_kernel = by_kernel + (along * kernel[i * NUM_STREAMS + j],)
    d_columns = along_columns(by_kernel, constants(1.0, NUM_STREAMS, BLOCK_MATRICES), NUM_STREAMS)

    # c_t = 1 / (Kᵀ r_{t-1}) and r_t = 1 / (K c_t), r_0 = 1
    for back in range(1, num_iters):
        d_column_sums = d_inverses(d_columns, columns, NUM_STREAMS)
        columns = load_entries(scratch + (num_iters - 1 - back) * step, BLOCK_MATRICES, NUM_STREAMS)
        rows = inverses(along_rows(kernel, columns, NUM_STREAMS), NUM_STREAMS)
        d_row_sums = d_inverses(along_rows(kernel, d_column_sums, NUM_STREAMS), rows, NUM_STREAMS)
        new_d_kernel = ()
        for i in tl.static_range(NUM_STREAMS):
            for j in tl.static_range(NUM_STREAMS):
                total = tl.fma(d_row_sums[i], columns[j], d_kernel[i * NUM_STREAMS + j])
                new_d_kernel = new_d_kernel + (tl.fma(rows[i], d_column_sums[j], total),)
        d_kernel = new_d_kernel
        d_columns = along_columns(kernel, d_row_sums, NUM_STREAMS)
    d_column_sums = d_inverses(d_columns, columns, NUM_STREAMS)
    d_logits = ()
    for i in tl.static_range(NUM_STREAMS):
        for j in tl.static_range(NUM_STREAMS):
            along = (d_kernel[i * NUM_STREAMS + j] + d_column_sums[j]) * kernel[i * NUM_STREAMS + j]
            d_logits = d_logits + (tl.where(clamped[i * NUM_STREAMS + j], 0.0, along),)
    store_entries(d_logits_ptr + token * token_stride, d_logits, token < num_tokens, entry_stride)


@triton.jit(do_not_specialize=["num_tokens", "num_iters"])
def forward_kernel(logits_ptr, out_ptr, num_tokens, num_iters, NUM_STREAMS: tl.constexpr, BLOCK_MATRICES: tl.constexpr):
    """(M, n, n) -> (M, n, n)."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_MATRICES + tl.arange(0, BLOCK_MATRICES)
    size: tl.constexpr = NUM_STREAMS * NUM_STREAMS
    row = tl.minimum(token, num_tokens - 1)
    matrices = iterate(load_entries(logits_ptr + row * size, 1, size), num_iters, NUM_STREAMS, BLOCK_MATRICES)
    store_entries(out_ptr + token * size, matrices, token < num_tokens, 1)


@triton.jit(do_not_specialize=["num_tokens", "num_iters"])
def backward_kernel(
    d_out_ptr, logits_ptr, d_logits_ptr, scratch_ptr, num_tokens, num_iters,
    NUM_STREAMS: tl.constexpr, BLOCK_MATRICES: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits, all (M, n, n)."""
    iterate_backward(
        d_out_ptr, logits_ptr, d_logits_ptr, scratch_ptr, tl.program_id(0), num_tokens, num_iters,
        NUM_STREAMS * NUM_STREAMS, 1, NUM_STREAMS, BLOCK_MATRICES,
    )  # fmt: skip


def forward(logits: Tensor, num_iters: int) -> Tensor:
    """(M, n, n) contiguous fp32 -> the same."""
    maps = torch.empty_like(logits)
    num_tokens, n, _ = logits.shape
    options = blocks()
    programs = num_tiles(num_tokens, options["BLOCK_MATRICES"])
    forward_kernel[(programs,)](logits, maps, num_tokens, num_iters, NUM_STREAMS=n, **options)
    return maps


def backward(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    """Gradient of the logits, all (M, n, n) contiguous fp32."""
    d_logits = torch.empty_like(logits)
    num_tokens, n, _ = logits.shape
    options = blocks()
    programs = num_tiles(num_tokens, options["BLOCK_MATRICES"])
    scratch = logits.new_empty(programs, num_iters, n, options["BLOCK_MATRICES"])
    backward_kernel[(programs,)](d_maps, logits, d_logits, scratch, num_tokens, num_iters, NUM_STREAMS=n, **options)
    return d_logits


def blocks() -> dict[str, Any]:
    """Launch options: a matrix for each thread of a program."""
    return {"BLOCK_MATRICES": num_threads(NUM_WARPS), "num_warps": NUM_WARPS}
