"""Merge: X' = res · X + postᵀ · F with given maps, and its gradients.

`res` is (m, n) for m results: m = n after a branch, m = 1 where the streams are read out; none is the identity. Without
F nothing is added: this reads. The boundary's backward pass makes streams again with it, to the bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mhc_vision.kernels.triton_kernels.boundary.device import load_branch, load_keep, load_streams, merged_stream
from mhc_vision.kernels.triton_kernels.device import load_entries, sum_in_thread
from mhc_vision.kernels.triton_kernels.tiles import num_tiles, tile


@triton.jit(do_not_specialize=["num_tokens", "entry_stride", "tokens_per_sample"])
def forward_kernel(
    x_ptr,
    f_ptr,
    res_ptr,
    post_ptr,
    gamma_ptr,
    keep_ptr,
    out_ptr,
    num_tokens,
    dim,
    x_token_stride,
    x_stream_stride,
    res_stride,
    post_stride,
    entry_stride,
    tokens_per_sample,
    NUM_STREAMS: tl.constexpr,
    NUM_RESULTS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """(M, n, C), (M, C), (M, m, n), (M, m) -> (M, m, C).

    Equal streams are one, with a stream stride of 0; a map shared by all tokens has a stride of 0.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    row = tl.minimum(token, num_tokens - 1)
    res = ()
    if res_ptr is not None:
        res = load_entries(res_ptr + row * res_stride, entry_stride, NUM_RESULTS * NUM_STREAMS)
    post = ()
    if f_ptr is not None:
        post = load_entries(post_ptr + row * post_stride, entry_stride, NUM_RESULTS)
    keep = load_keep(keep_ptr, row, tokens_per_sample)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        inside = channel < dim
        f = load_branch(f_ptr, gamma_ptr, keep, row, channel, inside, dim, True)
        x = load_streams(x_ptr, row, channel, inside, x_token_stride, x_stream_stride, NUM_STREAMS, True)
        for i in tl.static_range(NUM_RESULTS):
            merged = merged_stream(res, post, x, f, i, NUM_STREAMS)
            at = row[:, None] * (NUM_RESULTS * dim) + i * dim + channel[None, :]
            tl.store(out_ptr + at, merged.to(out_ptr.dtype.element_ty), mask=rows[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["num_tokens"])
def backward_kernel(
    d_out_ptr,
    x_ptr,
    f_ptr,
    res_ptr,
    post_ptr,
    d_x_ptr,
    d_f_ptr,
    d_res_ptr,
    d_post_ptr,
    num_tokens,
    dim,
    res_stride,
    post_stride,
    NUM_STREAMS: tl.constexpr,
    NUM_RESULTS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradients of X and, per token, of res, if it is given; of F, if there is one, and post."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    res = ()
    d_res = ()
    for e in tl.static_range(NUM_RESULTS * NUM_STREAMS if res_ptr is not None else 0):
        res = res + (tl.load(res_ptr + token * res_stride + e, mask=rows, other=0.0).to(tl.float32)[:, None],)
        d_res = d_res + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
    post = ()
    d_post = ()
    for i in tl.static_range(NUM_RESULTS if f_ptr is not None else 0):
        post = post + (tl.load(post_ptr + token * post_stride + i, mask=rows, other=0.0).to(tl.float32)[:, None],)
        d_post = d_post + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        at = token[:, None] * (NUM_STREAMS * dim) + channel[None, :]
        out_at = token[:, None] * (NUM_RESULTS * dim) + channel[None, :]
        d_out = ()
        for i in tl.static_range(NUM_RESULTS):
            d_out = d_out + (tl.load(d_out_ptr + out_at + i * dim, mask=mask, other=0.0).to(tl.float32),)
        if f_ptr is not None:
            f_at = token[:, None] * dim + channel[None, :]
            f = tl.load(f_ptr + f_at, mask=mask, other=0.0).to(tl.float32)
            d_f = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
            new_d_post = ()
            for i in tl.static_range(NUM_RESULTS):
                d_f += post[i] * d_out[i]
                new_d_post = new_d_post + (d_post[i] + sum_in_thread(d_out[i] * f, BLOCK_TOKENS, BLOCK_CHANNELS),)
            d_post = new_d_post
            tl.store(d_f_ptr + f_at, d_f.to(d_f_ptr.dtype.element_ty), mask=mask)
        # column by column, so that one stream of X is held at a time
        new_d_res = ()
        for j in tl.static_range(NUM_STREAMS if res_ptr is not None else 0):
            x = tl.load(x_ptr + at + j * dim, mask=mask, other=0.0).to(tl.float32)
            d_x = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
            for i in tl.static_range(NUM_RESULTS):
                d_x += res[i * NUM_STREAMS + j] * d_out[i]
                total = d_res[j * NUM_RESULTS + i] + sum_in_thread(d_out[i] * x, BLOCK_TOKENS, BLOCK_CHANNELS)
                new_d_res = new_d_res + (total,)
            tl.store(d_x_ptr + at + j * dim, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)
        d_res = new_d_res
    for i in tl.static_range(len(d_post)):
        tl.store(d_post_ptr + token * NUM_RESULTS + i, tl.sum(d_post[i], 1), mask=rows)
    for e in tl.static_range(len(d_res)):
        d_res_at = token * (NUM_RESULTS * NUM_STREAMS) + e % NUM_RESULTS * NUM_STREAMS + e // NUM_RESULTS
        tl.store(d_res_ptr + d_res_at, tl.sum(d_res[e], 1), mask=rows)


def forward(
    streams: Tensor,
    output: Tensor | None,
    res: Tensor | None,
    post: Tensor | None,
    dtype: torch.dtype | None = None,
    layer_scale: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """(M, n, C), (M, C), (M, m, n) or (m, n), (M, m) or (m,) -> (M, m, C), in `dtype` or that of the streams.

    Output and post may be missing, or res. The output may be multiplied by LayerScale, (C,), and by DropPath's factor
    of each sample, (B,). Channels are contiguous; streams may be one expanded to n, and the entries of both maps lie
    equally far apart.
    """
    num_tokens, n, dim = streams.shape
    num_results = n if res is None else res.shape[-2]
    merged = streams.new_empty(num_tokens, num_results, dim, dtype=dtype)
    blocks = tile("merge", n)
    forward_kernel[(num_tiles(num_tokens, blocks["BLOCK_TOKENS"]),)](
        streams,
        output,
        res,
        post,
        layer_scale,
        keep,
        merged,
        num_tokens,
        dim,
        streams.stride(0),
        streams.stride(1),
        *_strides(res, post),
        (post if res is None else res).stride(-1),
        tokens_per_sample(keep, num_tokens),
        NUM_STREAMS=n,
        NUM_RESULTS=num_results,
        **blocks,
    )
    return merged


def tokens_per_sample(keep: Tensor | None, num_tokens: int) -> int:
    """N; any number where DropPath has no factors."""
    return 1 if keep is None else num_tokens // len(keep)


def backward(
    d_merged: Tensor,
    streams: Tensor,
    output: Tensor | None,
    res: Tensor | None,
    post: Tensor | None,
    found: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Fill memory for the gradients of the others, per token in fp32 of the maps; nothing, of what is missing.

    Without `res`, the gradient of the streams is that of the result, and is not made.
    """
    num_tokens, n, dim = streams.shape
    blocks = tile("merge_backward", n)
    backward_kernel[(num_tiles(num_tokens, blocks["BLOCK_TOKENS"]),)](
        d_merged,
        streams,
        output,
        res,
        post,
        *found,
        num_tokens,
        dim,
        *_strides(res, post),
        NUM_STREAMS=n,
        NUM_RESULTS=d_merged.shape[1],
        **blocks,
    )


def _strides(res: Tensor | None, post: Tensor | None) -> tuple[int, int]:
    """From the map of one token to that of the next; 0 where all tokens share one, or there is none."""
    of_res = 0 if res is None or res.dim() == 2 else res.stride(0)
    return of_res, 0 if post is None or post.dim() == 1 else post.stride(0)
