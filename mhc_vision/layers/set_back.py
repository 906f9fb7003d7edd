"""Set the maps of a model back to their start for a while: what it would be without what they have learned."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mhc_vision.layers.connection import HyperConnection
from mhc_vision.layers.streams import GatedReduction


@contextmanager
def maps_at_start(model: nn.Module) -> Iterator[None]:
    """While the `with` block runs, every connection and gated read-out of a model has the maps of its start.

    There a connection is a plain residual connection: the model computes what the plain model with the same weights
    does. The values change in place, so that this holds for compiled models and fused kernels as well, and afterwards
    every one has its bits again. No random number is drawn, and there is no second model in memory.

    Args:
        model: with hyper-connections; others stay as they are. Not sharded: FSDP2 keeps its parameters elsewhere.
    """
    modules = [module for module in model.modules() if isinstance(module, HyperConnection | GatedReduction)]
    with torch.no_grad():
        kept = [(value, value.clone()) for module in modules for value in (*module.parameters(), *module.buffers())]
    try:
        with torch.no_grad():
            for module in modules:
                module.reset_parameters()
        yield
    finally:
        with torch.no_grad():
            for value, its_own in kept:
                value.copy_(its_own)
