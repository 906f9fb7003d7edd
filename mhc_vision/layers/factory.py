"""The connections by name, as in model names and configs."""

import inspect
from typing import Any

import torch

from mhc_vision.checks import check_choice, nearest
from mhc_vision.layers.connection import HyperConnection
from mhc_vision.layers.dynamic import DynamicHyperConnection
from mhc_vision.layers.manifold import ManifoldHyperConnection
from mhc_vision.layers.static import StaticHyperConnection
from mhc_vision.layers.streams import STREAM_DTYPES, create_expansion, create_reduction

CONNECTIONS: dict[str, type[HyperConnection]] = {
    "shc": StaticHyperConnection,
    "dhc": DynamicHyperConnection,
    "mhc": ManifoldHyperConnection,
}
"""The hyper-connections, by the values of `connection`."""

# arguments of connections that a model gives them itself, or leaves at their default
_NOT_OF_MODELS = {"dim", "num_streams", "layer_index", "eps", "device", "dtype"}


def connection_options() -> dict[str, tuple[str, ...]]:
    """The options of a model that belong to its connections, and the connections that have each of them."""
    options: dict[str, tuple[str, ...]] = {}
    for connection, connection_class in CONNECTIONS.items():
        for option in inspect.signature(connection_class).parameters:
            if option not in _NOT_OF_MODELS:
                options[option] = (*options.get(option, ()), connection)
    return options


def default_options(connection: str) -> dict[str, Any]:
    """What the options of a model are where they are not given: those of this connection, and of its streams' ends."""
    parameters = inspect.signature(CONNECTIONS[connection]).parameters.values()
    own = {option.name: option.default for option in parameters if option.name not in _NOT_OF_MODELS}
    return {**own, "stream_reduce": "mean", "stream_expand": "copy", "stream_dtype": "model"}


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
        having = ", ".join(connection_options().get(name, ())) or "none"
        raise ValueError(
            f"{name}: got {given[name]!r}, but connection {connection!r} has no such option (connections that have it: "
            f"{having}); leave it out{nearest(name, known)}"
        )
    make: Any = connection_class
    return make(dim, num_streams, layer_index, device=device, dtype=dtype, **given)


def check_connection(
    connection: str,
    num_streams: int,
    stream_reduce: str = "mean",
    stream_expand: str = "copy",
    stream_dtype: str = "model",
    **options: Any,
) -> None:
    """Raise ValueError unless connections with these options can be made; nothing is built yet."""
    check_choice("stream_dtype", stream_dtype, STREAM_DTYPES)
    # the meta device draws no random numbers, but `training.deferred_weights` stands in for it and does
    with torch.random.fork_rng(devices=()):
        create_connection(connection, 1, num_streams, device="meta", **options)
        create_expansion(stream_expand, 1, num_streams, device="meta")
        create_reduction(stream_reduce, 1, num_streams, device="meta")
