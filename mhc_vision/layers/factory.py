"""From the name of a connection, as in model names and configs, to the module."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from mhc_vision.checks import check_choice, nearest
from mhc_vision.layers.connection import HyperConnection
from mhc_vision.layers.dynamic import DynamicHyperConnection
from mhc_vision.layers.manifold import ManifoldHyperConnection
from mhc_vision.layers.static import StaticHyperConnection
from mhc_vision.layers.streams import create_reduction

CONNECTIONS: dict[str, Callable[..., HyperConnection]] = {
    "shc": StaticHyperConnection,
    "dhc": DynamicHyperConnection,
    "mhc": ManifoldHyperConnection,
}


def create_connection(
    connection: str,
    dim: int,
    num_streams: int = 4,
    layer_index: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> HyperConnection:
    """The connection of this name.

    Args:
        connection: `shc`, `dhc` or `mhc`.
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        layer_index: which branch of the network this is, counted from 0.
        device: of the parameters.
        dtype: of the model.
        **options: of the connection's class; None stands for its default.

    Raises:
        ValueError: unknown connection, an option that this connection does not have, or a value out of range.
    """
    check_choice("connection", connection, CONNECTIONS)
    connection_class = CONNECTIONS[connection]
    given = {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(connection_class).parameters.keys()
    if unknown := given.keys() - known:
        name = min(unknown)
        hint = nearest(name, known)
        raise ValueError(f"{name}: got {given[name]!r}, but connection {connection!r} has no such option{hint}")
    return connection_class(dim, num_streams, layer_index, device=device, dtype=dtype, **given)


def check_connection(connection: str, num_streams: int, stream_reduce: str = "mean", **options: Any) -> None:
    """Raise the ValueError that a model with these options would end in, before anything of it is built."""
    create_connection(connection, 1, num_streams, device="meta", **options)
    create_reduction(stream_reduce, 1, num_streams, device="meta")
