"""Kernel of the boundary's merge alone: recomputes streams that were not kept, for the backward pass."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.boundary.device import (
    boundary_maps,
    load_branch,
    load_keep,
    load_streams,
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
    """X, F, logits -> X', with the bits that `merge_logits_kernel` gave it."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    res, post = boundary_maps(logits_ptr, num_tokens, token, rows, num_iters, NUM_STREAMS, BLOCK_TOKENS)
    keep = load_keep(keep_ptr, token, rows, tokens_per_sample, KEEP)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        f = load_branch(f_ptr, gamma_ptr, keep, token, channel, mask, dim, GAMMA)
        x = load_streams(x_ptr, token, channel, mask, x_token_stride, x_stream_stride, NUM_STREAMS)
        for i in tl.static_range(NUM_STREAMS):
            merged = merged_stream(res, post, x, f, i, NUM_STREAMS)
            at = token[:, None] * (NUM_STREAMS * dim) + i * dim + channel[None, :]
            tl.store(out_ptr + at, merged.to(out_ptr.dtype.element_ty), mask=mask)
