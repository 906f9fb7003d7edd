"""Tile sizes of the kernels, by the number of streams.

What decides whether a kernel spills is the number of elements a thread holds of each stream (tokens x channels / 128),
not C, so a table by kernel and n is enough. Channels beyond C are masked. All run with four warps and no software
pipelining: these kernels are short of registers.
"""

from mhc_vision.kernels.checks import MAX_FUSED_STREAMS

# (tokens, channels) of a tile for up to MAX_FUSED_STREAMS streams, and for more
TILES = {
    "merge": ((16, 64), (8, 64)),
    "merge_backward": ((16, 64), (8, 64)),
    "read": ((16, 64), (16, 64)),
    "read_backward": ((16, 64), (16, 64)),
    "logits": ((64, 32), (32, 32)),
    "logits_backward": ((16, 64), (16, 32)),
    "boundary": ((16, 32),),
    "boundary_replay": ((16, 64),),
    "boundary_norm": ((4, 256),),
    "boundary_norm_backward": ((32, 32),),
    "boundary_backward": ((16, 32),),
}


def tile(kernel: str, num_streams: int) -> dict[str, int]:
    """Launch options of a kernel."""
    tokens, channels = TILES[kernel][0 if num_streams <= MAX_FUSED_STREAMS else 1]
    return {"BLOCK_TOKENS": tokens, "BLOCK_CHANNELS": channels, "num_warps": 4, "num_stages": 1}
