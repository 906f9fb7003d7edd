"""Kernel of the boundary's merge alone: recomputes streams that were not kept, for the backward pass."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.boundary.device import (
    load_branch,
    load_keep,
    load_streams,
    merge_maps,
    merged_stream,
)


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_sample", "num_iters"])
def replay_kernel(
    x_ptr,
    f_ptr,
    logits_ptr,
    gamma_ptr,
    keep_ptr,
    out_ptr,
    num_tokens,
    dim,
    x_token_stride,
    x_stream_stride,
    tokens_per_sample,
    num_iters,
    NUM_STREAMS: tl.constexpr,
    GAMMA: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """X, F, logits -> X', with the bits that `forward_kernel` gave it."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    row = tl.minimum(token, num_tokens - 1)
    res, post = merge_maps(logits_ptr + row, num_tokens, num_iters, NUM_STREAMS, BLOCK_TOKENS)
    keep = load_keep(keep_ptr, row, tokens_per_sample, KEEP)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        inside = channel < dim
        f = load_branch(f_ptr, gamma_ptr, keep, row, channel, inside, dim, GAMMA, True)
        x = load_streams(x_ptr, row, channel, inside, x_token_stride, x_stream_stride, NUM_STREAMS, True)
        for i in tl.static_range(NUM_STREAMS):
            merged = merged_stream(res, post, x, f, i, NUM_STREAMS)
            at = row[:, None] * (NUM_STREAMS * dim) + i * dim + channel[None, :]
            tl.store(out_ptr + at, merged.to(out_ptr.dtype.element_ty), mask=rows[:, None] & inside[None, :])
