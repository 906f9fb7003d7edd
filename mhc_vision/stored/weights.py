"""Weights that were read from a file: their form, and whether they are those of the model that they are for."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision.stored.value_kinds import shown

_NAMED = 3
# arguments that say how often a model repeats something, in words of timm's families
_REPEATS = ("depth", "depths", "layers", "num_layers", "num_blocks", "num_parallel")
MOST_BLOCKS = 1024
"""More than any published model; a bound where the weights are not at hand."""
_LARGEST = 2**24


def check_state(where: str, state: Any) -> None:
    """Raise ValueError unless `state` is a mapping from names to tensors that are stored as they claim to be."""
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{where}: got {shown(state)}, expected a mapping from names to weights")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{where}: got the key {shown(name)}, expected names of weights")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{where}.{name}: got {shown(value)}, expected a dense tensor")
        # a few bytes can be spread over any shape; a model of this shape would need it all
        if not value.is_meta and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"{where}.{name}: got a tensor of shape {tuple(value.shape)} with "
                f"{value.untyped_storage().nbytes()} bytes, expected each value to be stored"
            )


def check_repeats(where: str, model_args: Mapping[str, Any], state: Mapping[str, Tensor] | None) -> None:
    """Raise ValueError if arguments ask for more blocks than there are weights, or for sizes that none has.

    Building a model takes as long as it has layers, on the meta device too, so this comes before it is built.

    Args:
        where: What an error calls the arguments.
        model_args: Of the model.
        state: Its weights; `None` where they are not at hand.
    """
    blocks = {int(match[1]) for name in state or () if (match := re.match(r"blocks\.(\d+)\.", name))}
    depth = model_args.get("depth")
    if blocks and isinstance(depth, int) and depth != len(blocks):
        raise ValueError(f"{where}.depth: got {depth}, expected {len(blocks)}: the weights are of so many blocks")
    most = MOST_BLOCKS if state is None else max(len(state), 1)
    for key, value in model_args.items():
        numbers = list(_numbers(value))
        if key in _REPEATS and sum(map(abs, numbers)) > most:
            raise ValueError(f"{where}.{key}: got {shown(value)}, expected at most {most} in all")
        if any(abs(number) > _LARGEST for number in numbers):
            raise ValueError(f"{where}.{key}: got {shown(value)}, expected numbers up to {_LARGEST}")


def check_fits(where: str, state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise ValueError unless names, shapes and kinds of numbers are those of a model, which may be on the meta device.

    Args:
        where: What an error calls the weights.
        state: The weights.
        model: That is to load them.
    """
    expected = model.state_dict()
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"lacks {first_three(missing)}")
    if unknown := [name for name in state if name not in expected]:
        problems.append(f"has {first_three(unknown)}, which the model does not")
    differing = [name for name in expected if name in state and _form(state[name]) != _form(expected[name])]
    if differing:
        words = (f"{name} as {_words(state[name])} for {_words(expected[name])}" for name in differing[:_NAMED])
        more = len(differing) - _NAMED
        problems.append(f"has {', '.join(words)}{f' and {more} more' if more > 0 else ''}")
    if problems:
        raise ValueError(f"{where} does not fit the model of its settings: it {'; '.join(problems)}")


def first_three(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    listed = list(names)
    more = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def short_reason(error: BaseException) -> str:
    """An error in one line; of torch's page about weights that do not fit, the first three lines of what differs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "in loading state_dict" in lines[0]:
        parts = []
        for line in lines[1 : 1 + _NAMED]:
            names = re.findall(r'"([^"]+)"', line)
            parts.append(f"{line.partition(':')[0]}: {first_three(names)}" if names else line)
        more = len(lines) - 1 - _NAMED
        return "; ".join(parts) + (f" and {more} more" if more > 0 else "")
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"


def _numbers(value: Any) -> Iterable[int | float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _numbers(entry)


def _form(tensor: Tensor) -> tuple[torch.Size, bool, bool]:
    return tensor.shape, tensor.is_floating_point(), tensor.is_complex()


def _words(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
