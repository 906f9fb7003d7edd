"""Multiply-accumulates of a model for one image."""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mhc_vision.layers.connection import HyperConnection
from mhc_vision.layers.recording import Opened, named_connections


def connection_macs(connection: HyperConnection) -> int:
    """Multiply-accumulates of a connection for one token.

    n·C to read, (n² + n)·C to merge, and the projection that makes the maps, if there is one: (n² + 2n)·n·C for mHC,
    (n + 2)·n·C for DHC. What is left out is the same for every channel: tanh, sigmoid, Sinkhorn-Knopp.
    """
    n, dim = connection.num_streams, connection.dim
    macs = n * dim + (n * n + n) * dim
    weight = getattr(connection, "weight", None)
    if weight is not None:
        # each row meets all n·C numbers of a token, at once (mHC) or stream by stream (DHC)
        macs += len(weight) * n * dim
    return macs


def image_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of a forward pass for one image, without running it.

    PyTorch's `FlopCounterMode` counts the model without its connections (half its FLOPs: matrix products, attention,
    convolution), and `connection_macs` says what these add, so that the figure is the same on every backend.

    Args:
        model: any model, plain or hyper-connected; it is left as it is.
        input_size: channels, height and width of the image.
    """
    # a copy whose tensors have shapes only
    shapes: dict[int, object] = {id(tensor): _shape_of(tensor) for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shapes).eval()
    added: list[int] = []
    for connection in named_connections(model).values():
        connection.open = _counting_open(connection, added)  # type: ignore[assignment]
        connection.merge = _pass_streams_on  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *input_size, device="meta"))
    return cast(int, counter.get_total_flops()) // 2 + sum(added)


def _shape_of(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape


def _counting_open(connection: HyperConnection, added: list[int]) -> Callable[[Tensor], Opened]:
    def count_and_open(streams: Tensor) -> Opened:
        num_tokens = streams.numel() // (connection.num_streams * connection.dim)
        added.append(num_tokens * connection_macs(connection))
        return streams.select(-2, 0), streams, streams, streams

    return count_and_open


def _pass_streams_on(streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
    return streams
