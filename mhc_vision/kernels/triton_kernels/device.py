"""Functions that kernels of several ops call."""

import triton
import triton.language as tl


@triton.jit
def sum_in_thread(values, BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, IN_THREAD: tl.constexpr = 8):
    """(tokens, channels) -> (tokens, channels / IN_THREAD): the part of a sum that needs no other thread."""
    return tl.sum(tl.reshape(values, [BLOCK_TOKENS, BLOCK_CHANNELS // IN_THREAD, IN_THREAD]), 2)


@triton.jit
def load(pointers, inside, MASKED: tl.constexpr):
    """Values, with MASKED zero where not `inside`. A load without a mask costs fewer instructions."""
    return tl.load(pointers, mask=inside, other=0.0) if MASKED else tl.load(pointers)


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """total + a · b, summed in fp32, of factors in one dtype.

    PRECISION `native` multiplies bf16 as it is; all others are Triton's and bring factors to fp32 first.
    """
    if PRECISION == "native":
        total = tl.dot(a, b, total)
    else:
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=PRECISION)
    return total


@triton.jit
def add_products(
    total,
    x,
    phi_ptr,
    row,
    num_rows,
    PADDED_LOGITS: tl.constexpr,
    SPLIT: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """total + x · φ, (tokens, K), with these rows of φ, whose low part lies `num_rows` further."""
    at = row[:, None] * PADDED_LOGITS + tl.arange(0, PADDED_LOGITS)[None, :]
    # a chain of products in tensor cores truncates its sum: this one is short, and added in fp32
    products = tl.zeros_like(total)
    for part in tl.static_range(1 + SPLIT):
        phi = load(phi_ptr + part * num_rows * PADDED_LOGITS + at, (row < num_rows)[:, None], MASKED)
        products = dot(x, phi, products, PRECISION)
    return total + products


@triton.jit
def along_phi(
    high, low, phi_ptr, row, num_rows, PADDED_LOGITS: tl.constexpr, SPLIT: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """d · φᵀ, (tokens, rows of φ), with d = high + low; without SPLIT d is `high`."""
    at = row[None, :] * PADDED_LOGITS + tl.arange(0, PADDED_LOGITS)[:, None]
    total = tl.zeros([BLOCK_TOKENS, BLOCK_ROWS], tl.float32)
    for part in tl.static_range(1 + SPLIT):
        phi = load(phi_ptr + part * num_rows * PADDED_LOGITS + at, (row < num_rows)[None, :], MASKED)
        total = dot(high, phi, total, PRECISION)
        if SPLIT and part == 0:
            total = dot(low, phi, total, PRECISION)
    return total


@triton.jit
def split_bf16(values):
    """Two bf16 numbers whose sum has 16 bits of each value: their products with bf16 are exact in fp32."""
    high = values.to(tl.bfloat16)
    return high, (values - high.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def add_split_products(total, x, d, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """total + x · d, with x as it is stored and d in fp32, which is split where x is narrower."""
    if SPLIT:
        high, low = split_bf16(d)
        total = dot(x, high, total, PRECISION)
        total = dot(x, low, total, PRECISION)
    else:
        total = dot(x, d, total, PRECISION)
    return total


@triton.jit
def load_entries(entry, stride, COUNT: tl.constexpr):
    """COUNT numbers of each token, from `entry` on, as vectors over the tokens, in fp32."""
    vectors = ()
    for _ in tl.static_range(COUNT):
        vectors = vectors + (tl.load(entry).to(tl.float32),)
        entry += stride
    return vectors


@triton.jit
def store_entries(entry, vectors, rows, stride):
    """The inverse of `load_entries`, of those tokens that are `rows`."""
    for e in tl.static_range(len(vectors)):
        tl.store(entry, vectors[e], mask=rows)
        entry += stride


@triton.jit
def load_logits(pre_ptr, rest_ptr, token, rows, k, num_logits, num_tokens, NUM_STREAMS: tl.constexpr):
    """(tokens, K) from the first n logits and the others, each in their tensor, or all in one; zero in the padding."""
    first = rest_ptr
    entry = k
    if pre_ptr is not None:
        of_pre = k < NUM_STREAMS
        first = tl.where(of_pre, pre_ptr, rest_ptr)
        entry = tl.where(of_pre, k, k - NUM_STREAMS)
    entry = first + entry.to(tl.int64) * num_tokens
    return tl.load(entry[None, :] + token[:, None], mask=rows[:, None] & (k < num_logits)[None, :], other=0.0)
