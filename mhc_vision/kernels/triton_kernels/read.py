"""Read: u = pre · X, and its gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mhc_vision.kernels.triton_kernels.device import sum_in_thread
from mhc_vision.kernels.triton_kernels.tiles import num_tiles, tile


@triton.jit(do_not_specialize=["num_tokens"])
def forward_kernel(
    x_ptr,
    pre_ptr,
    out_ptr,
    num_tokens,
    dim,
    pre_stride,
    NUM_STREAMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """(M, n, C), (M, n) -> (M, C). A map shared by all tokens has a stride of 0."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    pre = ()
    for j in tl.static_range(NUM_STREAMS):
        pre = pre + (tl.load(pre_ptr + token * pre_stride + j, mask=rows, other=0.0).to(tl.float32)[:, None],)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        at = token[:, None] * (NUM_STREAMS * dim) + channel[None, :]
        read = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS], tl.float32)
        for j in tl.static_range(NUM_STREAMS):
            read += pre[j] * tl.load(x_ptr + at + j * dim, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + token[:, None] * dim + channel[None, :], read.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_tokens"])
def backward_kernel(
    d_out_ptr,
    x_ptr,
    pre_ptr,
    d_x_ptr,
    d_pre_ptr,
    num_tokens,
    dim,
    pre_stride,
    NUM_STREAMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradients of X and, per token, of `pre`."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    pre = ()
    d_pre = ()
    for j in tl.static_range(NUM_STREAMS):
        pre = pre + (tl.load(pre_ptr + token * pre_stride + j, mask=rows, other=0.0).to(tl.float32)[:, None],)
        d_pre = d_pre + (tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32),)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        at = token[:, None] * (NUM_STREAMS * dim) + channel[None, :]
        d_out = tl.load(d_out_ptr + token[:, None] * dim + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        new_d_pre = ()
        for j in tl.static_range(NUM_STREAMS):
            x = tl.load(x_ptr + at + j * dim, mask=mask, other=0.0).to(tl.float32)
            new_d_pre = new_d_pre + (d_pre[j] + sum_in_thread(d_out * x, BLOCK_TOKENS, BLOCK_CHANNELS),)
            d_x = pre[j] * d_out
            tl.store(d_x_ptr + at + j * dim, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)
        d_pre = new_d_pre
    for j in tl.static_range(NUM_STREAMS):
        tl.store(d_pre_ptr + token * NUM_STREAMS + j, tl.sum(d_pre[j], 1), mask=rows)


def forward(streams: Tensor, pre: Tensor, dtype: torch.dtype | None) -> Tensor:
    """(M, n, C) contiguous, (M, n) or (n,) -> (M, C), in `dtype` or that of the streams."""
    num_tokens, n, dim = streams.shape
    tokens = streams.new_empty(num_tokens, dim, dtype=dtype)
    blocks = tile("read", n)
    forward_kernel[(num_tiles(num_tokens, blocks["BLOCK_TOKENS"]),)](
        streams, pre, tokens, num_tokens, dim, _stride(pre), NUM_STREAMS=n, **blocks
    )
    return tokens


def backward(d_tokens: Tensor, streams: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the streams and, per token in fp32, of pre (M, n)."""
    num_tokens, n, dim = streams.shape
    d_streams = torch.empty_like(streams)
    d_pre = streams.new_empty(num_tokens, n, dtype=torch.float32)
    blocks = tile("read_backward", n)
    backward_kernel[(num_tiles(num_tokens, blocks["BLOCK_TOKENS"]),)](
        d_tokens, streams, pre, d_streams, d_pre, num_tokens, dim, _stride(pre), NUM_STREAMS=n, **blocks
    )
    return d_streams, d_pre


def _stride(pre: Tensor) -> int:
    return pre.stride(0) if pre.dim() == 2 else 0
