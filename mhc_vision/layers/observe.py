"""Observe the connections of a model while it runs: maps, branch inputs, streams and read-out."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mhc_vision.kernels import Coefficients, use_backend
from mhc_vision.layers.connection import HyperConnection
from mhc_vision.layers.streams import GatedReduction, StreamReduction

ConnectionObserver = Callable[[str, Tensor, Tensor, Coefficients], None]


def named_connections(model: nn.Module) -> dict[str, HyperConnection]:
    """The hyper-connections of a model by name, in the order in which a ViT runs them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, HyperConnection)}


@contextmanager
def observe_connections(model: nn.Module, observer: ConnectionObserver) -> Iterator[None]:
    """Call `observer(name, streams, tokens, maps)` at every connection while the `with` block runs the model.

    It gets the connection's name, the streams (B, N, n, C) before it, what its branch reads (B, N, C), and its maps:
    (B, N, n), (B, N, n), (B, N, n, n), or without B and N where all tokens share them; all detached. What it does
    not keep is freed, so the memory is that of a forward pass. The model runs block by block and on plain PyTorch
    meanwhile, as the fused kernels keep their maps to themselves; a compiled model has to be run eagerly
    (`torch.compiler.set_stance("force_eager")`).

    Args:
        model: with hyper-connections; others have nothing to observe.
        observer: called in the order in which the connections run.
    """
    connections = named_connections(model).items()
    handles = [connection.register_observer(partial(observer, name)) for name, connection in connections]
    try:
        with use_backend("torch"):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observe_reduction(model: nn.Module, observer: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Call `observer(streams, weights)` at the read-out of the streams while the `with` block runs the model.

    It gets the streams (B, N, n, C) after the last branch, and the weights of their sum that the model reads: (n,), or
    (B, N, n) of a gated read-out. The model runs block by block meanwhile.
    """

    def observe(module: StreamReduction | GatedReduction, inputs: tuple[Tensor]) -> None:
        streams = inputs[0].detach()
        observer(streams, module.weights(streams).detach())

    reductions = [module for module in model.modules() if isinstance(module, StreamReduction | GatedReduction)]
    handles = [module.register_forward_pre_hook(observe) for module in reductions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_coefficients(model: nn.Module) -> Iterator[dict[str, Coefficients]]:
    """Collect the maps of every connection while the `with` block runs the model, as in `observe_connections`.

    The maps are those of the last forward pass.

    Args:
        model: with hyper-connections; others have nothing to record.
    """
    records: dict[str, Coefficients] = {}

    def record(name: str, streams: Tensor, tokens: Tensor, maps: Coefficients) -> None:
        records[name] = maps

    with observe_connections(model, record):
        yield records


def initial_coefficients(connection: HyperConnection) -> Coefficients:
    """The maps at the start of a connection like this one, the same for every token: (n,), (n,), (n, n)."""
    fresh = copy.deepcopy(connection)
    if next(fresh.parameters()).is_meta:
        fresh.to_empty(device="cpu")
    fresh.reset_parameters()
    # no token has an influence yet
    streams = next(fresh.parameters()).new_zeros(fresh.num_streams, fresh.dim)
    with torch.no_grad(), use_backend("torch"):
        return fresh.coefficients(streams)
