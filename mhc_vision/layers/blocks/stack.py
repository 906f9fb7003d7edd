"""Stacks of blocks that map tokens to tokens, and so do their first k blocks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision.layers.blocks.fused_stack import run_fused, take_fused_steps
from mhc_vision.layers.blocks.identity_stack import run_chained, take_chained_steps
from mhc_vision.layers.blocks.stream_block import StreamBlock, read_out


class StreamStack(nn.Module):
    """What a container of stream blocks adds to `nn.Sequential` or `nn.ModuleList`: ends that follow the blocks.

    The first k blocks, `stack[:k]`, are a stack of their own: they read the streams out after their last block. They
    share their modules with the blocks of the stack; the last one is a copy of that block around the same modules.
    Blocks from the middle have no such form: they take streams, which no tokens can stand for.

    Attributes:
        stream_stride: where the stack runs fused, the streams of every so many boundaries are kept for the backward
            pass.
    """

    stream_stride = 1

    def run(self, x: Tensor, arguments: Sequence[dict[str, Any]] | None = None, part: slice = slice(None)) -> Tensor:
        """(B, N, C) -> (B, N, C), from branch to branch where that is faster: see `fused_stack` and `identity_stack`.

        Args:
            x: tokens.
            arguments: of each block, by name, besides the tokens or streams; None gives it no others.
            part: which blocks run, consecutive ones: without the first, x is their streams (B, N, n, C); without the
                last, so is the result.
        """
        blocks: list[Any] = list(self)[part]  # type: ignore[call-overload]
        steps, why_not = take_fused_steps(blocks, x, arguments)
        if not why_not:
            return run_fused(blocks, steps, x, self.stream_stride)
        steps, why_not = take_chained_steps(blocks, x, arguments)
        if not why_not:
            return run_chained(blocks, steps, x)
        for index, block in enumerate(blocks):
            x = block(x, **(arguments[index] if arguments else {}))
        return x

    def __getitem__(self, index: Any) -> Any:
        """A block, or the stack of the first blocks."""
        if not isinstance(index, slice | list | tuple):
            return super().__getitem__(index)  # type: ignore[misc]
        if not isinstance(index, slice) or index.start not in (None, 0) or index.step not in (None, 1):
            raise ValueError(
                f"blocks: got the slice {_written(index)}, expected the first blocks, [:k]: others take n streams, not "
                "tokens; run [:k] for features after block k, and `for block in blocks` for all of them"
            )
        part = super().__getitem__(index)  # type: ignore[misc]
        part.stream_stride = self.stream_stride
        if 0 < len(part) < len(self):  # type: ignore[arg-type]
            _replace(part, len(part) - 1, "reduction", self[-1].reduction)
        return part

    def __setitem__(self, index: Any, block: nn.Module) -> None:
        """Replace a block; where the new one does nothing, as `nn.Identity()`, the ends of the stack stay."""
        expansion, reduction = self[0].expansion, self[-1].reduction
        super().__setitem__(index, block)  # type: ignore[misc]
        if isinstance(block, nn.Identity):
            _set_ends(self, expansion, reduction)
            self.own_ends()

    def __delitem__(self, index: Any) -> None:
        """Remove blocks; the first and the last that remain become the ends of the stack."""
        expansion, reduction = self[0].expansion, self[-1].reduction
        super().__delitem__(index)  # type: ignore[misc]
        _set_ends(self, expansion, reduction)
        self.own_ends()

    def own_ends(self) -> None:
        """Make the ends that blocks borrow their own, when they take the place of the stack that they are from."""
        if len(self):  # type: ignore[arg-type]
            for block, name in ((self[0], "expansion"), (self[-1], "reduction")):
                if isinstance(end := getattr(block, name), Borrowed):
                    setattr(block, name, end._owned_elsewhere[0])


class StreamSequential(StreamStack, nn.Sequential):
    """`nn.Sequential` of stream blocks."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        if not torch.jit.is_scripting():
            return self.run(x)
        for block in self:
            x = block(x)
        return x


class StreamModuleList(StreamStack, nn.ModuleList):
    """`nn.ModuleList` of stream blocks."""


class Borrowed(nn.Module):
    """Runs a module that belongs to another block, without making its parameters this block's.

    Args:
        module: to be run.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # a tuple keeps the module out of the submodules
        self._owned_elsewhere = (module,)

    def forward(self, *args: Any) -> Tensor:
        """As the module's."""
        return self._owned_elsewhere[0](*args)


class BetweenEnds(nn.Module):
    """An end of a stack whose block is wrapped, as by `torch.compile`: what the stack adds stands around the wrapper.

    Args:
        block: to be run.
        stack: of which it is an end.
    """

    def __init__(self, block: nn.Module, stack: nn.Module) -> None:
        super().__init__()
        self.expansion: nn.Module = nn.Identity()
        self.block = block
        self.reduction: nn.Module = nn.Identity()
        # a tuple keeps the stack out of the submodules
        self._stack_elsewhere = (stack,)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the block's."""
        streams = self.block(self.expansion(x), *args, **kwargs)
        return read_out(self.reduction, streams, token_dtype(*self._stack_elsewhere))


def adopt(container: nn.Module, previous: StreamStack) -> nn.Module:
    """A plain container of stream blocks that takes the place of their stack, as a stack with the ends of that one."""
    kinds: dict[type, type] = {nn.Sequential: StreamSequential, nn.ModuleList: StreamModuleList}
    if type(container) in kinds and any(isinstance(module, StreamBlock) for module in container.modules()):
        first, last = previous[0].expansion, previous[-1].reduction
        container.__class__ = kinds[type(container)]
        container.stream_stride = previous.stream_stride  # type: ignore[assignment]
        _set_ends(container, first, last)
    return container


def token_dtype(blocks: nn.Module) -> torch.dtype | None:
    """`StreamBlock.token_dtype` of these blocks, wrapped or not; None also where there are none."""
    first = next((module for module in blocks.modules() if isinstance(module, StreamBlock)), None)
    return None if first is None else first.token_dtype()


def _written(index: slice | list[int] | tuple[int, ...]) -> str:
    if not isinstance(index, slice):
        return str(list(index))
    start, stop, step = ("" if value is None else str(value) for value in (index.start, index.stop, index.step))
    return f"[{start}:{stop}{':' if step else ''}{step}]"


def _set_ends(stack: Any, expansion: nn.Module, reduction: nn.Module) -> None:
    """Let the first block expand, the last one reduce, and no other."""
    last = len(stack) - 1
    for i in range(len(stack)):
        _replace(stack, i, "expansion", expansion if i == 0 else nn.Identity())
        _replace(stack, i, "reduction", reduction if i == last else nn.Identity())


def _replace(stack: Any, index: int, name: str, end: nn.Module) -> None:
    """Let the block at `index` have this end; another stack that holds the block keeps it as it is."""
    block = stack[index]
    present = getattr(block, name, None)
    if present is end or (isinstance(end, nn.Identity) and isinstance(present, nn.Identity | None)):
        return
    if isinstance(block, StreamBlock | BetweenEnds):
        # not copy.copy, through which torch.compile cannot see
        original, block = block, object.__new__(type(block))
        block.__dict__.update(original.__dict__)
        block._modules = dict(original._modules)
    else:
        block = BetweenEnds(block, stack)
    setattr(block, name, end if next(end.parameters(), None) is None else Borrowed(end))
    nn.Module.__setattr__(stack, list(stack._modules)[index], block)
