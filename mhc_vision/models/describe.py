"""Describe: in words, how the blocks of a model run here, and why not in a faster way."""

from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.layers import named_connections
from mhc_vision.layers.blocks.fused_stack import why_not_fusable, why_not_fused
from mhc_vision.layers.blocks.identity_stack import why_not_chained
from mhc_vision.layers.blocks.stack import StreamStack


def describe(model: nn.Module) -> str:
    """Say in words how the hyper-connected blocks of a model run on its device, and why not in a faster way.

    A stack of blocks runs fused (boundary by boundary in Triton kernels), chained (from branch to branch, for `res` = I
    on a CPU) or block by block. The reasons are those by which the stacks choose. Whatever they choose for whole
    forward passes, they run block by block where features after single blocks are asked for, and a ViT also with masks.

    Args:
        model: any; as it is now, with its hooks, in its dtype and on its device.

    Returns:
        A line on the backend, and a line or more for each stack of connected blocks.
    """
    modules = dict(model.named_modules())
    stacks = {
        name: module
        for name, module in modules.items()
        if isinstance(module, StreamStack) and named_connections(module)
    }
    if not stacks:
        return f"{type(model).__name__} has no stack of hyper-connected blocks"
    checkpointed = [module for module in modules.values() if getattr(module, "grad_checkpointing", False)]
    compiled = [part for module in modules.values() if _is_compiled(module) for part in module.modules()]
    lines = [kernels.describe()]
    for name, stack in stacks.items():
        title = f"{name or type(stack).__name__} ({len(list(stack.children()))} blocks)"
        if any(getattr(module, "blocks", None) is stack for module in checkpointed):
            lines.append(f"{title}: block by block, as gradient checkpointing takes them")
        else:
            lines += _described(title, stack, any(part is stack for part in compiled))
    return "\n".join(lines)


def _described(title: str, stack: Any, compiled: bool) -> list[str]:
    tokens = _some_tokens(stack)
    not_fused = why_not_fused(stack, tokens)
    if not not_fused:
        return [f"{title}: fused, boundary by boundary in Triton kernels"]
    of_blocks = why_not_fusable(stack)
    elsewhere = "" if of_blocks == not_fused else f"; where the kernels run: {of_blocks or 'fused'}"
    not_chained = why_not_chained(stack, tokens, compiled)
    return [
        f"{title}: {'block by block' if not_chained else 'chained, from branch to branch'}",
        f"  not fused: {not_fused}{elsewhere}",
        *([f"  not chained: {not_chained}"] if not_chained else []),
    ]


def _some_tokens(stack: nn.Module) -> Tensor:
    """As those that enter the stack, in device and dtype: (1, 1, C)."""
    dims = [connection.dim for connection in named_connections(stack).values()]
    like = next(parameter for parameter in stack.parameters() if parameter.is_floating_point())
    return torch.empty(1, 1, dims[0], device=like.device, dtype=like.dtype)


def _is_compiled(module: nn.Module) -> bool:
    """By `module.compile()` or `torch.compile(module)`."""
    return getattr(module, "_compiled_call_impl", None) is not None or "_orig_mod" in module._modules
