"""Set the maps of a model back to their start for a while: what it would be without what they have learned."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class HasPlainValues(Protocol):
    """What lies between streams and can be made as in a plain residual network: every module that has `make_plain`."""

    def make_plain(self) -> None:
        """Set all parameters so that the module does what a plain network does; in place, without a random number."""


@contextmanager
def maps_at_start(model: nn.Module) -> Iterator[None]:
    """While the `with` block runs, every module that `HasPlainValues` is made plain.

    With the maps of its start a connection is a plain residual connection, and a gated read-out is the mean: the model
    computes what the plain model with the same weights does. Streams that `stream_expand='scaled'` sets apart are
    copies, scaled by their mean. The values change in place, so that this holds for compiled models and fused kernels
    as well, and afterwards every one has its bits again. No random number is drawn, and there is no second model in
    memory.

    Args:
        model: with hyper-connections; others stay as they are. FSDP2 is to have gathered its connections.
    """
    modules = [module for module in model.modules() if isinstance(module, HasPlainValues)]
    with torch.no_grad():
        kept = [(value, value.clone()) for module in modules for value in _values(module)]
    try:
        with torch.no_grad():
            for module in modules:
                module.make_plain()
        yield
    finally:
        with torch.no_grad():
            for value, its_own in kept:
                value.copy_(its_own)


def _values(module: HasPlainValues) -> list[Tensor]:
    assert isinstance(module, nn.Module)
    return [*module.parameters(), *module.buffers()]
