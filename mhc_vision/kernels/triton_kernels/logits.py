"""Logits: scale ∘ (rms_norm(vec(X)) · φ) + bias, and the gradients of X, φ, scale and bias.

For streams of bf16 or fp16, φ and the gradients that meet X in a matrix product are each split into two bf16 numbers:
then every product of two factors is exact in TF32, and the sum is as good as in fp32. For fp32 streams the products are
IEEE fp32.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mhc_vision.kernels.triton_kernels.device import load_logits, split_bf16, sum_in_thread
from mhc_vision.kernels.triton_kernels.tiles import tile

# of the gradient of φ: tile, and how many tokens one partial sum covers at least; at most 32 partial sums
GRADIENT_TOKENS, GRADIENT_CHANNELS, MIN_TOKENS_PER_SPLIT, MAX_SPLITS = 32, 64, 1024, 32


class Projection(NamedTuple):
    """φ as the kernels read it: (2, n*C, K) in bf16, high and low part, or (1, n*C, K) in fp32; K is k padded."""

    phi: Tensor
    num_logits: int

    @property
    def options(self) -> dict[str, int | bool]:
        """Compile-time arguments of the kernels that use it."""
        return {"PADDED_LOGITS": self.phi.shape[2], "SPLIT": self.phi.shape[0] == 2}


@triton.jit
def prepare_kernel(
    weight_ptr, phi_ptr, num_rows, num_logits, PADDED_LOGITS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):
    """φᵀ (k, n*C) -> φ (1 or 2, n*C, K), zero in the padding."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, PADDED_LOGITS)
    mask = (row < num_rows)[:, None]
    weight_at = k[None, :] * num_rows + row[:, None]
    weight = tl.load(weight_ptr + weight_at, mask=mask & (k < num_logits)[None, :], other=0.0).to(tl.float32)
    at = row[:, None] * PADDED_LOGITS + k[None, :]
    if SPLIT:
        high, low = split_bf16(weight)
        tl.store(phi_ptr + at, high.to(tl.bfloat16), mask=mask)
        tl.store(phi_ptr + num_rows * PADDED_LOGITS + at, low.to(tl.bfloat16), mask=mask)
    else:
        tl.store(phi_ptr + at, weight, mask=mask)


@triton.jit(do_not_specialize=["num_tokens"])
def forward_kernel(
    x_ptr,
    phi_ptr,
    scale_ptr,
    bias_ptr,
    logits_ptr,
    inverse_rms_ptr,
    num_tokens,
    dim,
    num_logits,
    eps,
    NUM_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """(M, n, C) -> logits (M, k) and the inverse RMS (M,)."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    k = tl.arange(0, PADDED_LOGITS)
    products = tl.zeros([BLOCK_TOKENS, PADDED_LOGITS], tl.float32)
    squares = tl.zeros([BLOCK_TOKENS, BLOCK_CHANNELS // 8], tl.float32)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        for j in tl.static_range(NUM_STREAMS):
            at = token[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
            x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            squares += sum_in_thread(x * x, BLOCK_TOKENS, BLOCK_CHANNELS)
            phi_at = (j * dim + channel)[:, None] * PADDED_LOGITS + k[None, :]
            inside = (channel < dim)[:, None]
            phi = tl.load(phi_ptr + phi_at, mask=inside, other=0.0).to(tl.float32)
            if SPLIT:
                low = tl.load(phi_ptr + NUM_STREAMS * dim * PADDED_LOGITS + phi_at, mask=inside, other=0.0)
                products = tl.dot(x, phi, products, input_precision="tf32")
                products = tl.dot(x, low.to(tl.float32), products, input_precision="tf32")
            else:
                products = tl.dot(x, phi, products, input_precision="ieee")
    inverse_rms = tl.rsqrt(tl.sum(squares, 1) / (NUM_STREAMS * dim) + eps)
    tl.store(inverse_rms_ptr + token, inverse_rms, mask=rows)
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    logits = products * inverse_rms[:, None] * scale[None, :] + bias[None, :]
    at = token[:, None] * num_logits + k[None, :]
    tl.store(logits_ptr + at, logits, mask=rows[:, None] & (k < num_logits)[None, :])


@triton.jit(do_not_specialize=["num_tokens"])
def streams_backward_kernel(
    d_logits_ptr,
    logits_ptr,
    inverse_rms_ptr,
    scale_ptr,
    bias_ptr,
    x_ptr,
    phi_ptr,
    d_tokens_ptr,
    d_handed_on_ptr,
    d_x_ptr,
    num_tokens,
    dim,
    num_logits,
    NUM_STREAMS: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    READ: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradient of X from that of the logits; with READ also from what σ of the first n read, and from later uses.

    With s the inverse RMS and p = X φ, logits = scale p s + bias and ds/dX = -s³ X / (n C), so that
    dX = (d_logits scale s) φᵀ - Σ d_logits (logits - bias) s² / (n C) X.
    """
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = token < num_tokens
    k = tl.arange(0, PADDED_LOGITS)
    side = token[:, None] * num_logits + k[None, :]
    side_mask = rows[:, None] & (k < num_logits)[None, :]
    scale = tl.load(scale_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=k < num_logits, other=0.0).to(tl.float32)
    d_logits = tl.load(d_logits_ptr + side, mask=side_mask, other=0.0)
    logits = tl.load(logits_ptr + side, mask=side_mask, other=0.0)
    inverse_rms = tl.load(inverse_rms_ptr + token, mask=rows, other=0.0)
    along_x = -tl.sum(d_logits * (logits - bias[None, :]), 1) * inverse_rms * inverse_rms / (NUM_STREAMS * dim)
    d_products = d_logits * scale[None, :] * inverse_rms[:, None]
    if SPLIT:
        high, low = split_bf16(d_products)
    pre = ()
    if READ:
        for j in tl.static_range(NUM_STREAMS):
            logit = tl.load(logits_ptr + token * num_logits + j, mask=rows, other=0.0)
            pre = pre + (tl.sigmoid(logit)[:, None],)
    for start in range(0, dim, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        mask = rows[:, None] & (channel < dim)[None, :]
        if READ:
            d_tokens_at = token[:, None] * dim + channel[None, :]
            d_tokens = tl.load(d_tokens_ptr + d_tokens_at, mask=mask, other=0.0).to(tl.float32)
        for j in tl.static_range(NUM_STREAMS):
            phi_at = (j * dim + channel)[None, :] * PADDED_LOGITS + k[:, None]
            inside = (channel < dim)[None, :]
            phi = tl.load(phi_ptr + phi_at, mask=inside, other=0.0).to(tl.float32)
            if SPLIT:
                phi_low = tl.load(phi_ptr + NUM_STREAMS * dim * PADDED_LOGITS + phi_at, mask=inside, other=0.0)
                d_x = tl.dot(high, phi, input_precision="tf32")
                d_x = tl.dot(low, phi, d_x, input_precision="tf32")
                d_x = tl.dot(high, phi_low.to(tl.float32), d_x, input_precision="tf32")
            else:
                d_x = tl.dot(d_products, phi, input_precision="ieee")
            at = token[:, None] * (NUM_STREAMS * dim) + j * dim + channel[None, :]
            d_x += along_x[:, None] * tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            if READ:
                d_x += pre[j] * d_tokens
                d_x += tl.load(d_handed_on_ptr + at, mask=mask, other=0.0).to(tl.float32)
            tl.store(d_x_ptr + at, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_split", "d_entry_stride"])
def phi_backward_kernel(
    d_pre_ptr,
    d_rest_ptr,
    inverse_rms_ptr,
    x_ptr,
    partial_ptr,
    d_bias_ptr,
    num_tokens,
    num_rows,
    num_logits,
    tokens_per_split,
    d_token_stride,
    d_entry_stride,
    NUM_PRE: tl.constexpr,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Partial sums over tokens: (splits, n*C, K) of Xᵀ (d_logits · inverse RMS), and (splits, K) of d_logits.

    The gradients of the first NUM_PRE logits may lie in a tensor of their own.
    """
    row = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = (row < num_rows)[:, None]
    k = tl.arange(0, PADDED_LOGITS)
    total = tl.zeros([BLOCK_CHANNELS, PADDED_LOGITS], tl.float32)
    d_bias = tl.zeros([BLOCK_TOKENS, PADDED_LOGITS], tl.float32)
    first = tl.program_id(1) * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, num_tokens), BLOCK_TOKENS):
        token = (start + tl.arange(0, BLOCK_TOKENS)).to(tl.int64)
        rows = token < num_tokens
        x_at = token[None, :] * num_rows + row[:, None]
        x = tl.load(x_ptr + x_at, mask=rows[None, :] & inside, other=0.0).to(tl.float32)
        d = load_logits(d_pre_ptr, d_rest_ptr, token, rows, k, num_logits, d_token_stride, d_entry_stride, NUM_PRE)
        d_bias += d
        d *= tl.load(inverse_rms_ptr + token, mask=rows, other=0.0)[:, None]
        if SPLIT:
            high, low = split_bf16(d)
            total = tl.dot(x, high, total, input_precision="tf32")
            total = tl.dot(x, low, total, input_precision="tf32")
        else:
            total = tl.dot(x, d, total, input_precision="ieee")
    at = (tl.program_id(1).to(tl.int64) * num_rows + row)[:, None] * PADDED_LOGITS + k[None, :]
    tl.store(partial_ptr + at, total, mask=inside)
    # the programs of all channels sum the same; one of them writes
    if tl.program_id(0) == 0:
        tl.store(d_bias_ptr + tl.program_id(1) * PADDED_LOGITS + k, tl.sum(d_bias, 0))


def prepare(weight: Tensor, streams_dtype: torch.dtype) -> Projection:
    """φᵀ (k, n*C), contiguous, for streams of this dtype."""
    num_logits, num_rows = weight.shape
    padded = max(16, triton.next_power_of_2(num_logits))
    split = streams_dtype != torch.float32
    phi = weight.new_empty(1 + split, num_rows, padded, dtype=torch.bfloat16 if split else torch.float32)
    block = 32
    prepare_kernel[(triton.cdiv(num_rows, block),)](
        weight, phi, num_rows, num_logits, PADDED_LOGITS=padded, SPLIT=split, BLOCK=block
    )
    return Projection(phi, num_logits)


def forward(streams: Tensor, projection: Projection, scale: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(M, n, C), φ, (k,), (k,), all contiguous -> logits (M, k) and inverse RMS (M,), fp32."""
    num_tokens, n, dim = streams.shape
    logits = streams.new_empty(num_tokens, projection.num_logits, dtype=torch.float32)
    inverse_rms = streams.new_empty(num_tokens, dtype=torch.float32)
    blocks = tile("logits", n)
    forward_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        streams,
        projection.phi,
        scale,
        bias,
        logits,
        inverse_rms,
        num_tokens,
        dim,
        projection.num_logits,
        eps,
        NUM_STREAMS=n,
        **projection.options,
        **blocks,
    )
    return logits, inverse_rms


def streams_backward(
    d_logits: Tensor,
    logits: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    projection: Projection,
    scale: Tensor,
    bias: Tensor,
    d_tokens: Tensor | None = None,
    d_handed_on: Tensor | None = None,
) -> Tensor:
    """Gradient of the streams; `d_tokens`, of what was read, and `d_handed_on`, of later uses, come together."""
    num_tokens, n, dim = streams.shape
    d_streams = torch.empty_like(streams)
    blocks = tile("logits_backward", n)
    streams_backward_kernel[(triton.cdiv(num_tokens, blocks["BLOCK_TOKENS"]),)](
        d_logits,
        logits,
        inverse_rms,
        scale,
        bias,
        streams,
        projection.phi,
        d_tokens,
        d_handed_on,
        d_streams,
        num_tokens,
        dim,
        projection.num_logits,
        NUM_STREAMS=n,
        READ=d_tokens is not None,
        **projection.options,
        **blocks,
    )
    return d_streams


def parameters_backward(
    d_logits: Tensor,
    inverse_rms: Tensor,
    streams: Tensor,
    weight: Tensor,
    scale: Tensor,
    d_pre: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight (k, n*C), scale (k,) and, in fp32, bias (k,).

    `d_logits` is (M, k); or, with tokens last, the first logits apart from the others: `d_pre` (n, M) and (k - n, M).
    """
    num_logits, num_rows = weight.shape
    num_tokens = len(inverse_rms)
    splits = max(1, min(MAX_SPLITS, num_tokens // MIN_TOKENS_PER_SPLIT))
    tokens_per_split = triton.cdiv(triton.cdiv(num_tokens, splits), GRADIENT_TOKENS) * GRADIENT_TOKENS
    padded = max(16, triton.next_power_of_2(num_logits))
    partial, d_bias = d_logits.new_empty(splits, num_rows, padded), d_logits.new_empty(splits, padded)
    phi_backward_kernel[(triton.cdiv(num_rows, GRADIENT_CHANNELS), splits)](
        d_pre,
        d_logits,
        inverse_rms,
        streams,
        partial,
        d_bias,
        num_tokens,
        num_rows,
        num_logits,
        tokens_per_split,
        *((num_logits, 1) if d_pre is None else (1, num_tokens)),
        NUM_PRE=0 if d_pre is None else len(d_pre),
        PADDED_LOGITS=padded,
        SPLIT=streams.dtype != torch.float32,
        BLOCK_TOKENS=GRADIENT_TOKENS,
        BLOCK_CHANNELS=GRADIENT_CHANNELS,
        num_warps=4,
        num_stages=1,
    )
    unscaled = partial.sum(0)[:, :num_logits].t().contiguous()
    return (
        (unscaled * scale.unsqueeze(-1)).to(weight.dtype),
        (unscaled * weight).sum(1).to(scale.dtype),
        d_bias.sum(0)[:num_logits],
    )
