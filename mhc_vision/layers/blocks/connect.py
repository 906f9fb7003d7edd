"""Turn a stack of timm's blocks into hyper-connected ones, and back, in place."""

from typing import Any, cast

from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ParallelThingsBlock, ResPostBlock
from torch import nn

from mhc_vision.checks import check_choice
from mhc_vision.layers.blocks.eva import HyperEvaBlock, HyperEvaBlockPostNorm
from mhc_vision.layers.blocks.stack import StreamModuleList, StreamSequential
from mhc_vision.layers.blocks.stream_block import StreamBlock
from mhc_vision.layers.blocks.vit import HyperBlock, HyperParallelThingsBlock, HyperResPostBlock
from mhc_vision.layers.streams import (
    STREAM_DTYPES,
    ScaledExpansion,
    StreamExpansion,
    create_expansion,
    create_reduction,
)

HYPER_BLOCKS: dict[type[nn.Module], type[StreamBlock]] = {
    Block: HyperBlock,
    ResPostBlock: HyperResPostBlock,
    ParallelThingsBlock: HyperParallelThingsBlock,
    EvaBlock: HyperEvaBlock,
    EvaBlockPostNorm: HyperEvaBlockPostNorm,
}
STACKS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Sequential: StreamSequential,
    nn.ModuleList: StreamModuleList,
}
_PLAIN = {hyper: plain for plain, hyper in {**HYPER_BLOCKS, **STACKS}.items()}


def check_block_class(block_class: Any) -> None:
    """Raise ValueError unless connections can replace the additions of this class of blocks."""
    if block_class not in HYPER_BLOCKS:
        kinds = ", ".join(block.__name__ for block in HYPER_BLOCKS)
        name = getattr(block_class, "__name__", repr(block_class))
        raise ValueError(
            f"blocks: got {name}, expected one of {kinds}; connections replace the addition after attention and the "
            "one after the MLP"
        )


def check_blocks(blocks: nn.Module) -> None:
    """Raise ValueError unless `blocks` is a stack that `connect_blocks` can connect."""
    if type(blocks) not in STACKS:
        raise ValueError(f"blocks: got {type(blocks).__name__}, expected nn.Sequential or nn.ModuleList of timm blocks")
    if not len(cast(nn.Sequential, blocks)):
        raise ValueError("blocks: got none, expected at least one, to read the streams out")
    seen: set[int] = set()
    for index, block in enumerate(cast(nn.Sequential, blocks)):
        check_block_class(type(block))
        if "forward" in vars(block):
            raise ValueError(f"blocks: got a forward of its own in block {index}, expected its class's")
        if id(block) in seen:
            raise ValueError(f"blocks: got block {index} a second time, expected each block once")
        seen.add(id(block))


def connect_blocks(
    blocks: nn.Module,
    dim: int,
    connection: str = "mhc",
    num_streams: int = 4,
    stream_reduce: str = "mean",
    options: dict[str, Any] | None = None,
    stream_expand: str = "copy",
) -> None:
    """Replace the residual additions of timm's blocks by hyper-connections; all other modules stay what they are.

    The blocks and their container keep their identity and change their class, as under PyTorch's `fully_shard`: names,
    parameters, hooks and references held elsewhere stay valid.

    Args:
        blocks: `nn.Sequential` or `nn.ModuleList` of timm blocks.
        dim: channels C.
        connection: `shc`, `dhc` or `mhc`.
        num_streams: n, from 1 to 8.
        stream_reduce: read-out of the streams: `mean`, `sum` or `gated`.
        options: further arguments of the connection's class.
        stream_expand: how tokens become streams: `copy` or `scaled`.

    Raises:
        ValueError: blocks without two replaceable additions, or an option out of range.
    """
    check_blocks(blocks)
    stack = cast(list[Any], blocks)
    like = next(stack[-1].parameters())
    expansion = create_expansion(stream_expand, dim, num_streams, device=like.device, dtype=like.dtype)
    reduction = create_reduction(stream_reduce, dim, num_streams, device=like.device, dtype=like.dtype)
    for depth, block in enumerate(stack):
        block.__class__ = HYPER_BLOCKS[type(block)]
        block.add_connections(dim, depth, connection, num_streams, options)
    blocks.__class__ = STACKS[type(blocks)]
    stack[0].expansion = expansion.train(stack[0].training)
    stack[-1].reduction = reduction.train(stack[-1].training)


def set_stream_dtype(blocks: nn.Module, stream_dtype: str) -> None:
    """Say what the streams of connected blocks are rounded to, at the entry and after each merge.

    What is read from them, and the maps, are computed in fp32 at least. Branches get what they read in their own dtype.

    Args:
        blocks: connected.
        stream_dtype: `model`, `auto`, `float32` or `bfloat16`, as in `stream_dtype_of`.

    Raises:
        ValueError: another value.
    """
    check_choice("stream_dtype", stream_dtype, STREAM_DTYPES)
    for module in blocks.modules():
        if isinstance(module, StreamBlock | StreamExpansion | ScaledExpansion):
            module.stream_dtype = stream_dtype


def disconnect_blocks(blocks: nn.Module) -> None:
    """Undo `connect_blocks`: the plain blocks with their weights, whatever the connections have become.

    Raises:
        ValueError: a block is wrapped.
    """
    for index, block in enumerate(cast(list[Any], blocks)):
        if type(block) not in _PLAIN:
            raise ValueError(f"blocks: got {type(block).__name__} as block {index}, expected a block without a wrapper")
    for block in cast(list[Any], blocks):
        block.remove_connections()
        block.__class__ = _PLAIN[type(block)]
    blocks.__class__ = _PLAIN[type(blocks)]
