"""Functions that several kernels call."""

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
    """A tile of each stream in fp32; equal streams that are stored as one have the stream stride 0."""
    streams = ()
    for j in tl.static_range(NUM_STREAMS):
        at = token[:, None] * token_stride + j * stream_stride + channel[None, :]
        streams = streams + (tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32),)
    return streams


@triton.jit
def load_branch(pointer, gamma_ptr, keep, token, channel, mask, dim, GAMMA: tl.constexpr):
    """A tile of F in fp32, with its LayerScale and the DropPath factors of the tokens, (tokens, 1), or 1."""
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
    """Stream INDEX of res · X + postᵀ · F, in fp32: one order of sums wherever the merge is made again."""
    merged = post[INDEX][:, None] * f
    for j in tl.static_range(NUM_STREAMS):
        merged += res[INDEX * NUM_STREAMS + j][:, None] * x[j]
    return merged
