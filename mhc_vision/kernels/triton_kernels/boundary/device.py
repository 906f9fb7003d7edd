"""The merge inside a boundary: one order of sums, so that X' has the same bits in every kernel that makes it."""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.device import load_entries
from mhc_vision.kernels.triton_kernels.sinkhorn.vectors import sinkhorn_maps


@triton.jit
def boundary_maps(
    logits_ptr, num_tokens, token, rows, num_iters, NUM_STREAMS: tl.constexpr, BLOCK_TOKENS: tl.constexpr
):
    """res (n*n) and post (n) of each token."""
    size: tl.constexpr = NUM_STREAMS * NUM_STREAMS
    post = ()
    post_logits = load_entries(logits_ptr, token, rows, 1, num_tokens, NUM_STREAMS)
    for i in tl.static_range(NUM_STREAMS):
        post = post + (2.0 * tl.sigmoid(post_logits[i]),)
    res_ptr = logits_ptr + tl.full([], NUM_STREAMS, tl.int64) * num_tokens
    logits = load_entries(res_ptr, token, rows, 1, num_tokens, size)
    return sinkhorn_maps(logits, num_iters, NUM_STREAMS, BLOCK_TOKENS), post


@triton.jit
def load_streams(pointer, token, channel, mask, token_stride, stream_stride, NUM_STREAMS: tl.constexpr):
    """A tile of each stream in fp32; equal streams, stored as one, have a stream stride of 0."""
    streams = ()
    for j in tl.static_range(NUM_STREAMS):
        at = token[:, None] * token_stride + j * stream_stride + channel[None, :]
        streams = streams + (tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32),)
    return streams


@triton.jit
def load_branch(pointer, gamma_ptr, keep, token, channel, mask, dim, GAMMA: tl.constexpr):
    """A tile of F in fp32, times its LayerScale and the DropPath factors of the tokens, `keep` as from `load_keep`."""
    branch = tl.load(pointer + token[:, None] * dim + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    if GAMMA:
        branch *= tl.load(gamma_ptr + channel, mask=channel < dim, other=0.0).to(tl.float32)[None, :]
    return branch * keep


@triton.jit
def load_keep(pointer, token, rows, tokens_per_sample, KEEP: tl.constexpr):
    """DropPath's factor of each token's sample, (tokens, 1), or 1."""
    keep = 1.0
    if KEEP:
        keep = tl.load(pointer + token // tokens_per_sample, mask=rows, other=0.0)[:, None]
    return keep


@triton.jit
def merged_stream(res, post, x, f, INDEX: tl.constexpr, NUM_STREAMS: tl.constexpr):
    """Stream INDEX of res · X + postᵀ · F, in fp32."""
    merged = post[INDEX][:, None] * f
    for j in tl.static_range(NUM_STREAMS):
        merged += res[INDEX * NUM_STREAMS + j][:, None] * x[j]
    return merged
