"""Tile sizes of the kernels, by the number of streams.

What decides whether a kernel spills is the number of elements a thread holds of each stream, tokens x channels over its
threads, not C, so a table by kernel and n is enough. Channels beyond C are masked. There is no software pipelining:
these kernels are short of registers.
"""

import torch

from mhc_vision.kernels.checks import MAX_FUSED_STREAMS

# (tokens, channels) of a tile for up to MAX_FUSED_STREAMS streams, and for more
TILES = {
    "merge": ((16, 64), (8, 64)),
    "merge_backward": ((16, 64), (8, 64)),
    "boundary": ((16, 32), (16, 8)),
    "boundary_streams_backward": ((16, 32), (16, 8)),
    "boundary_sums_backward": ((32, 32), (16, 8)),
}


# with bf16, whose products take few registers, a thread can hold 128 bits of each of few streams: what one load brings
TWO_WARPS = ("boundary", "boundary_streams_backward")


def tile(kernel: str, num_streams: int, dtype: torch.dtype | None = None) -> dict[str, int]:
    """Launch options of a kernel, for streams of this dtype where it counts."""
    few = num_streams <= MAX_FUSED_STREAMS
    tokens, channels = TILES[kernel][0 if few else 1]
    warps = 2 if few and dtype == torch.bfloat16 and kernel in TWO_WARPS else 4
    return {"BLOCK_TOKENS": tokens, "BLOCK_CHANNELS": channels, "num_warps": warps, "num_stages": 1}


def num_threads(num_warps: int) -> int:
    """Threads of a program."""
    return num_warps * (64 if torch.version.hip else 32)


def num_tiles(size: int, block: int) -> int:
    """How many blocks cover this size."""
    return -(-size // block)


def in_thread(blocks: dict[str, int]) -> int:
    """Channels of a token that one thread holds, up to 8: what it can sum alone."""
    return min(8, blocks["BLOCK_TOKENS"] * blocks["BLOCK_CHANNELS"] // (32 * blocks["num_warps"]))


# tokens that one partial sum covers at least; partial sums at most
MIN_TOKENS_PER_SPLIT, MAX_SPLITS = 1024, 32


def token_splits(num_tokens: int, block: int) -> tuple[int, int]:
    """How many partial sums there are over the tokens, and how many tokens each covers, a multiple of `block`."""
    splits = max(1, min(MAX_SPLITS, num_tokens // MIN_TOKENS_PER_SPLIT))
    return splits, -(-num_tokens // splits // block) * block
