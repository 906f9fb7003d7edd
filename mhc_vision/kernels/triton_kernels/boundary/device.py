"""What kernels of the boundary share: tiles of streams and branches, and one order of sums for the merge.

A program past the last token loads that of the last one again, and stores nothing.
X' is the same expression tree in every kernel that makes it, so it has the same bits. Streams meet φ in one matrix
product: their tiles are joined channel by channel, as φ's rows lie, (c, j) for channel c of stream j.
"""

import triton
import triton.language as tl

from mhc_vision.kernels.triton_kernels.device import load, load_entries
from mhc_vision.kernels.triton_kernels.sinkhorn import iterate


@triton.jit
def load_fp32(pointers, inside, MASKED: tl.constexpr):
    """As `load`, in fp32."""
    return load(pointers, inside, MASKED).to(tl.float32)


@triton.jit
def load_streams(
    pointer, row, channel, inside, row_stride, stream_stride, NUM_STREAMS: tl.constexpr, MASKED: tl.constexpr
):
    """A tile of each stream; equal streams, stored as one, have a stream stride of 0."""
    streams = ()
    for j in tl.static_range(NUM_STREAMS):
        at = row[:, None] * row_stride + j * stream_stride + channel[None, :]
        streams = streams + (load_fp32(pointer + at, inside[None, :], MASKED),)
    return streams


@triton.jit
def load_branch(pointer, gamma_ptr, keep, row, channel, inside, dim, MASKED: tl.constexpr):
    """A tile of F, or 0 without it, times LayerScale and the tokens' DropPath factors, `keep` as from `load_keep`."""
    branch = 0.0
    if pointer is not None:
        branch = load_fp32(pointer + row[:, None] * dim + channel[None, :], inside[None, :], MASKED)
        if gamma_ptr is not None:
            branch *= load_fp32(gamma_ptr + channel, inside, MASKED)[None, :]
        branch *= keep
    return branch


@triton.jit
def load_keep(pointer, row, tokens_per_sample):
    """DropPath's factor of each token's sample, (tokens, 1), or 1."""
    keep = 1.0
    if pointer is not None:
        keep = tl.load(pointer + row // tokens_per_sample).to(tl.float32)[:, None]
    return keep


@triton.jit
def merge_maps(entry, num_tokens, num_iters, NUM_STREAMS: tl.constexpr, MIX: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """Logits [post | res] of each token -> res (n*n) and post (n); without MIX, res is the identity, and empty."""
    post = ()
    of_post = load_entries(entry, num_tokens, NUM_STREAMS)
    for i in tl.static_range(NUM_STREAMS):
        post = post + (2.0 * tl.sigmoid(of_post[i]),)
    res = ()
    if MIX:
        of_res = load_res(entry, num_tokens, NUM_STREAMS, MIX)
        res = iterate(of_res, num_iters, NUM_STREAMS, BLOCK_TOKENS)
    return res, post


@triton.jit
def load_res(entry, num_tokens, NUM_STREAMS: tl.constexpr, MIX: tl.constexpr):
    """What comes after the first n of each token: n*n vectors, or none without MIX."""
    res = ()
    if MIX:
        after = entry + tl.full([], NUM_STREAMS, tl.int64) * num_tokens
        res = load_entries(after, num_tokens, NUM_STREAMS * NUM_STREAMS)
    return res


@triton.jit
def load_pre(entry, num_tokens, NUM_STREAMS: tl.constexpr):
    """σ of the first n logits of each token."""
    pre = ()
    logits = load_entries(entry, num_tokens, NUM_STREAMS)
    for j in tl.static_range(NUM_STREAMS):
        pre = pre + (tl.sigmoid(logits[j]),)
    return pre


@triton.jit
def merged_stream(res, post, x, f, INDEX: tl.constexpr, NUM_STREAMS: tl.constexpr):
    """Stream INDEX of res · X + postᵀ · F, in fp32; an empty `res` is the identity, and an empty `post` adds nothing.

    Of two products that are added, a compiler may round either; this leaves it no choice.
    """
    if len(res) == 0:
        merged = x[INDEX]
        if len(post) > 0:
            merged = tl.fma(post[INDEX][:, None], f, merged)
    else:
        merged = post[INDEX][:, None] * f if len(post) > 0 else tl.zeros_like(x[0])
        for j in tl.static_range(NUM_STREAMS):
            merged = tl.fma(res[INDEX * NUM_STREAMS + j][:, None], x[j], merged)
    return merged


@triton.jit
def rounded(values, DTYPE: tl.constexpr, FENCE: tl.constexpr):
    """Values as they are stored, FENCE at a time through an instruction that the compiler cannot look into.

    Else it converts one by one, and repeats the arithmetic that leads to the values in the layout of a matrix product's
    operands. A FENCE of 0 is none.
    """
    result = values.to(DTYPE)
    if FENCE > 0:
        result = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [result], result.dtype, is_pure=False, pack=FENCE)
    return result


@triton.jit
def joined(
    tiles, NUM_STREAMS: tl.constexpr, PADDED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):
    """A tile of each stream -> (tokens, channels * n), n PADDED with zeros to 1, 2, 4 or 8."""
    for _ in tl.static_range(NUM_STREAMS, PADDED):
        tiles = tiles + (tl.zeros_like(tiles[0]),)
    # the index of the outer pair varies fastest
    if PADDED == 1:
        tile = tiles[0]
    elif PADDED == 2:
        tile = tl.join(tiles[0], tiles[1])
    elif PADDED == 4:
        tile = _joined_four(tiles[0], tiles[1], tiles[2], tiles[3])
    else:
        even = _joined_four(tiles[0], tiles[2], tiles[4], tiles[6])
        tile = tl.join(even, _joined_four(tiles[1], tiles[3], tiles[5], tiles[7]))
    return tl.reshape(tile, [BLOCK_TOKENS, BLOCK_CHANNELS * PADDED])


@triton.jit
def _joined_four(first, second, third, fourth):
    return tl.join(tl.join(first, third), tl.join(second, fourth))


@triton.jit
def parted(tile, PADDED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """The inverse of `joined`, with the tiles of the padding."""
    if PADDED == 1:
        tiles = (tile,)
    elif PADDED == 2:
        first, second = tl.split(tl.reshape(tile, [BLOCK_TOKENS, BLOCK_CHANNELS, 2]))
        tiles = (first, second)
    elif PADDED == 4:
        tiles = _parted_four(tl.reshape(tile, [BLOCK_TOKENS, BLOCK_CHANNELS, 2, 2]))
    else:
        even, odd = tl.split(tl.reshape(tile, [BLOCK_TOKENS, BLOCK_CHANNELS, 2, 2, 2]))
        even = _parted_four(even)
        odd = _parted_four(odd)
        tiles = (even[0], odd[0], even[1], odd[1], even[2], odd[2], even[3], odd[3])
    return tiles


@triton.jit
def _parted_four(tile):
    even, odd = tl.split(tile)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth
