"""What a model costs: its parameters, and multiply-accumulates for one image."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mhc_vision.layers import connection_parameters
from mhc_vision.layers.connection import HyperConnection, Opened


def count_parameters(model: nn.Module) -> dict[str, Any]:
    """Counts parameters.

    Returns:
        `total`, `trainable`, `connections`, and `extra_percent`: what the connections add to the plain model, in %.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    connections = sum(parameter.numel() for _, parameter in connection_parameters(model))
    return {
        "total": total,
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "connections": connections,
        "extra_percent": round(100.0 * connections / (total - connections), 4),
    }


def image_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of a forward pass for one image, without running it.

    PyTorch's `FlopCounterMode` counts the model without its connections (half its FLOPs: matrix products, attention,
    convolution), and `HyperConnection.macs` says what these add, so that the figure is the same on every backend.

    Args:
        model: any model, plain or hyper-connected; it is left as it is.
        input_size: channels, height and width of the image.
    """
    # a copy whose tensors have shapes only
    shapes: dict[int, object] = {id(tensor): _shape_of(tensor) for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shapes).eval()
    counts = _take_connections_out(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *input_size, device="meta"))
    return cast(int, counter.get_total_flops()) // 2 + sum(count.macs for count in counts)


class _ConnectionCount(nn.Module):
    """Stands in for a connection: counts what it costs, and computes nothing."""

    def __init__(self, connection: HyperConnection) -> None:
        super().__init__()
        self.stream_numbers = connection.num_streams * connection.dim
        self.macs_per_token = connection.macs()
        self.macs = 0

    def open(self, streams: Tensor, dtype: torch.dtype | None = None) -> Opened:
        self.macs += streams.numel() // self.stream_numbers * self.macs_per_token
        return Opened(streams.select(-2, 0).to(dtype or streams.dtype), streams, streams, streams)

    def merge(self, streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
        return streams

    def forward(self, streams: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        branch(self.open(streams).tokens)
        return streams


def _take_connections_out(model: nn.Module) -> list[_ConnectionCount]:
    """Put a count in the place of each connection."""
    counts: dict[HyperConnection, _ConnectionCount] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, HyperConnection):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, counts.setdefault(module, _ConnectionCount(module)))
    return list(counts.values())


def _shape_of(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
