"""What the connections of a model do with one batch: their maps, as they are made."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mhc_vision.kernels import Coefficients, read_streams, use_backend
from mhc_vision.layers.connection import HyperConnection

Opened = tuple[Tensor, Tensor, Tensor, Tensor]


def named_connections(model: nn.Module) -> dict[str, HyperConnection]:
    """The hyper-connections of a model by name, in the order in which a ViT runs them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, HyperConnection)}


@contextmanager
def record_coefficients(model: nn.Module) -> Iterator[dict[str, Coefficients]]:
    """Collect the maps of every connection while the `with` block runs the model.

    The maps are detached and those of the last forward pass: (B, N, n), (B, N, n), (B, N, n, n), or without B and N
    where all tokens share them. The model runs block by block and on plain PyTorch meanwhile, as the fused kernels keep
    their maps to themselves; a compiled model has to be run eagerly (`torch.compiler.set_stance("force_eager")`).

    Args:
        model: with hyper-connections; others have nothing to record.
    """
    records: dict[str, Coefficients] = {}
    connections = named_connections(model)
    for name, connection in connections.items():
        connection.open = _recording_open(name, connection, records)  # type: ignore[assignment]
    try:
        with use_backend("torch"):
            yield records
    finally:
        for connection in connections.values():
            del connection.open


def initial_coefficients(connection: HyperConnection) -> Coefficients:
    """The maps with which a connection like this one starts, the same for every token: (n,), (n,), (n, n)."""
    fresh = copy.deepcopy(connection)
    fresh.reset_parameters()
    # no token has an influence yet
    streams = next(fresh.parameters()).new_zeros(fresh.num_streams, fresh.dim)
    with torch.no_grad(), use_backend("torch"):
        return fresh.coefficients(streams)


def _recording_open(
    name: str, connection: HyperConnection, records: dict[str, Coefficients]
) -> Callable[[Tensor], Opened]:
    def record_and_open(streams: Tensor) -> Opened:
        pre, post, res = connection.coefficients(streams)
        records[name] = Coefficients(pre.detach(), post.detach(), res.detach())
        return read_streams(streams, pre), streams, res, post

    return record_and_open
