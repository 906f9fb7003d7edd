"""Functions that kernels of several ops call."""

import triton
import triton.language as tl


@triton.jit
def sum_in_thread(values, BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """(tokens, channels) -> (tokens, channels / 8): the part of a sum over channels that needs no other thread."""
    return tl.sum(tl.reshape(values, [BLOCK_TOKENS, BLOCK_CHANNELS // 8, 8]), 2)


@triton.jit
def split_bf16(values):
    """Two bf16 numbers, as fp32, whose sum has 16 bits of each value: their products with bf16 are exact in TF32."""
    high = values.to(tl.bfloat16).to(tl.float32)
    return high, (values - high).to(tl.bfloat16).to(tl.float32)


@triton.jit
def load_entries(pointer, token, rows, token_stride, entry_stride, COUNT: tl.constexpr):
    """The COUNT numbers of each token, (M, COUNT) or (COUNT, M), as vectors over the tokens."""
    vectors = ()
    entry = pointer + token * token_stride
    for _ in tl.static_range(COUNT):
        vectors = vectors + (tl.load(entry, mask=rows, other=0.0),)
        entry += entry_stride
    return vectors


@triton.jit
def load_logits(pre_ptr, rest_ptr, token, rows, k, num_logits, token_stride, entry_stride, NUM_PRE: tl.constexpr):
    """(tokens, K) from the first NUM_PRE logits and the others, in tensors of their own; zero in the padding."""
    at = token[:, None] * token_stride + (k[None, :].to(tl.int64) - NUM_PRE) * entry_stride
    mask = rows[:, None] & ((k >= NUM_PRE) & (k < num_logits))[None, :]
    logits = tl.load(rest_ptr + at, mask=mask, other=0.0)
    if NUM_PRE > 0:
        at = token[:, None] * token_stride + k[None, :].to(tl.int64) * entry_stride
        logits += tl.load(pre_ptr + at, mask=rows[:, None] & (k < NUM_PRE)[None, :], other=0.0)
    return logits
