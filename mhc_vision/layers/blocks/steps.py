"""Steps: what a block says of its two branches, so that a stack can run its blocks from branch to branch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from mhc_vision.kernels.backend import is_traced


class PreNorm(NamedTuple):
    """The parts of a branch: drop_path(layer_scale · inner(norm(tokens)))."""

    norm: nn.Module
    inner: Callable[[Tensor], Tensor]
    layer_scale: Tensor | None
    """(C,)."""
    drop_path: nn.Module
    others: tuple[nn.Module, ...] = ()
    """Further modules of the branch outside of `inner`, such as the one that holds `layer_scale`."""


class Step(NamedTuple):
    """One of a block's branches and the connection around it."""

    connection: Any
    branch: Callable[[Tensor], Tensor]
    """(B, N, C) -> (B, N, C), with all that the block does between reading and merging."""
    parts: PreNorm | None = None
    """Of `branch`, where it has this form."""


def why_no_tokens(blocks: Iterable[nn.Module], tokens: Any) -> str:
    """Why no stack of these blocks can take these tokens from branch to branch, or an empty string.

    Blocks from the middle of a stack, whose first one has no expansion, take its streams instead.
    """
    if is_traced():
        return "traced and exported graphs hold standard operators"
    # what torch.fx traces with is no tensor
    shape = "streams (B, N, n, C)" if _is_middle(next(iter(blocks), None)) else "tokens (B, N, C)"
    if not isinstance(tokens, Tensor) or tokens.dim() != shape.count(",") + 1:
        return f"the stack did not get one tensor of {shape}"
    return ""


def take_steps(
    blocks: Iterable[nn.Module],
    why_not: Callable[[Step], str],
    arguments: Sequence[dict[str, Any]] | None = None,
) -> tuple[list[Step], str]:
    """The steps of all blocks in turn, and why a stack cannot take them over, or an empty string.

    Args:
        blocks: of the stack.
        why_not: why it cannot take this step over, or an empty string.
        arguments: of each block, by name, besides the streams; None gives it no others.
    """
    stack: list[Any] = list(blocks)
    if not stack:
        return [], "there are no blocks"
    steps: list[Step] = []
    kinds: set[Any] = set()
    for index, block in enumerate(stack):
        reason = _why_not_block(block, first=index == 0, last=index == len(stack) - 1)
        for step in () if reason else block.steps(**(arguments[index] if arguments else {})):
            steps.append(step)
            reason = reason or ("its connections are observed" if step.connection.is_observed() else why_not(step))
            kinds.add(_kind(step.connection))
        if not reason and len(kinds) > 1:
            reason = "its connections are of another kind than those before"
        if reason:
            return [], f"block {index}: {reason}"
    return steps, ""


def _kind(connection: Any) -> tuple[Any, ...]:
    return type(connection), connection.num_streams, type(getattr(connection, "constraint", None))


def _why_not_block(block: Any, *, first: bool, last: bool) -> str:
    if not getattr(block, "has_steps", False) or "forward" in vars(block):
        return f"{type(block).__name__} may do something else than its steps say"
    if block._compiled_call_impl is not None:
        return "it is compiled by itself"
    if has_hooks(block):
        return "hooks wait at it"
    if not first and not _is_middle(block):
        return "tokens become streams in the first block, and only there"
    if not last and type(block.reduction) is not nn.Identity:
        return "streams become tokens in the last block, and only there"
    return ""


def _is_middle(block: Any) -> bool:
    """Whether this block takes the streams of another one, as those do that tokens do not enter."""
    return type(getattr(block, "expansion", None)) is nn.Identity


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks wait at the forward or backward pass of this module itself."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)
