"""Gradients of parameters made later than those of inputs: what zero-bubble schedules fill their bubbles with.

Inside `held_weight_gradients`, ops that can tell the two apart take their parameters without a gradient. Their backward
pass makes the gradients of inputs alone, and leaves here how to make the others; `take_weight_gradients` hands that
out. So each half is made once: PyTorch's own way, two passes over one graph, would run ops like these twice.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_Made = Callable[[], Sequence[Tensor | None]]

_is_holding = False
# filled by backward passes, which may run in a thread of autograd's
_later: list[tuple[tuple[Tensor | None, ...], _Made]] = []


class Held:
    """The parameters of an op whose gradients are made later.

    Args:
        parameters: as given; None and those without a gradient among them are skipped.
    """

    def __init__(self, parameters: tuple[Tensor | None, ...]) -> None:
        self.parameters = parameters

    def later(self, make: _Made) -> None:
        """Say how to make the gradients, in the order of the parameters."""
        _later.append((self.parameters, make))


@contextmanager
def held_weight_gradients() -> Iterator[None]:
    """Ops that run here leave the gradients of their parameters for later."""
    global _is_holding
    before, _is_holding = _is_holding, True
    try:
        yield
    finally:
        _is_holding = before


def hold(read: Tensor, *parameters: Tensor | None) -> tuple[tuple[Tensor | None, ...], Held | None]:
    """Parameters as an op is to take them, and where its backward pass leaves their gradients, if it is to.

    Args:
        read: what else the op takes; where it has no gradient, there is nothing to part.
        parameters: of the op.
    """
    learned = any(parameter is not None and parameter.requires_grad for parameter in parameters)
    if not (_is_holding and learned and read.requires_grad and torch.is_grad_enabled()):
        return parameters, None
    return tuple(None if parameter is None else parameter.detach() for parameter in parameters), Held(parameters)


def take_weight_gradients() -> Callable[[], None]:
    """What adds the gradients that backward passes have left since the last call to those of the parameters."""
    taken = list(_later)
    _later.clear()

    def add() -> None:
        tensors: list[Tensor] = []
        gradients: list[Tensor] = []
        for parameters, make in taken:
            kind = next(parameter.device.type for parameter in parameters if parameter is not None)
            with torch.no_grad(), torch.autocast(kind, enabled=False):
                made = make()
            for parameter, gradient in zip(parameters, made, strict=True):
                if parameter is not None and parameter.requires_grad and gradient is not None:
                    tensors.append(parameter)
                    gradients.append(gradient.to(parameter.dtype))
        taken.clear()
        if tensors:
            # at once: some are made of others, such as the scales of all connections in one op
            torch.autograd.backward(tensors, gradients)

    return add
