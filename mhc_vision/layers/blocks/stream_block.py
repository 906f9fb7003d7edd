"""StreamBlock: turns any of timm's transformer blocks with two branches into a hyper-connected one."""

from typing import Any

import torch
from torch import Tensor, nn

from mhc_vision.checks import check_whole_number
from mhc_vision.layers.factory import create_connection


class StreamBlock(nn.Module):
    """Base of all blocks between streams; combined with a timm block, whose modules and names it keeps.

    `connection1` sits around attention and `connection2` around the MLP. Whatever the block applies to a branch output,
    (B, N, C), such as LayerScale and DropPath, stays there. `expansion` and `reduction` do nothing until a model puts
    its entry into the streams and its read-out there (in its first and its last block), so that a stack of blocks maps
    tokens to tokens. A block runs its connections' `open` and `merge`, not their `forward`: forward hooks fire on
    the modules of the branches, on `connection1.constraint` and on `reduction`, but not on the connections themselves.

    Attributes:
        stream_dtype: of the streams, as in `stream_dtype_of`; see `set_stream_dtype`.
    """

    stream_dtype: str = "model"

    def add_connections(
        self, dim: int, depth: int, connection: str, num_streams: int, options: dict[str, Any] | None = None
    ) -> None:
        """Give the block its two connections.

        Args:
            dim: channels C.
            depth: index of the block; its branches have the layer indices 2·depth and 2·depth + 1.
            connection: `shc`, `dhc` or `mhc`.
            num_streams: n, from 1 to 8.
            options: further arguments of the connection's class.

        Raises:
            ValueError: unknown connection, or an option out of range.
        """
        check_whole_number("depth", depth, at_least=0)
        like = next(self.parameters())
        arguments: dict[str, Any] = {"device": like.device, "dtype": like.dtype, **(options or {})}
        self.expansion: nn.Module = nn.Identity()
        self.connection1 = create_connection(connection, dim, num_streams, 2 * depth, **arguments)
        self.connection2 = create_connection(connection, dim, num_streams, 2 * depth + 1, **arguments)
        self.reduction: nn.Module = nn.Identity()
        for module in (self.expansion, self.connection1, self.connection2, self.reduction):
            module.train(self.training)

    def remove_connections(self) -> None:
        """Leave the modules of the plain block."""
        del self.expansion, self.connection1, self.connection2, self.reduction
        vars(self).pop("stream_dtype", None)

    def token_dtype(self) -> torch.dtype | None:
        """The dtype of what is read from the streams, which is that of the branches; None: that of the streams."""
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out what this alone guards)
            if self.stream_dtype != "model":
                return self._branch_dtype()
        return None

    def leave(self, streams: Tensor, dtype: torch.dtype | None) -> Tensor:
        """What the block returns: its streams, or in the last block of a stack the tokens they make, in `dtype`."""
        if not torch.jit.is_scripting():
            return read_out(self.reduction, streams, dtype)
        return self.reduction(streams)

    def _branch_dtype(self) -> torch.dtype:
        # those of timm's block come first
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())


def read_out(reduction: nn.Module, streams: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The reduction's tokens, in `dtype` or that of the streams; streams where the reduction is an identity."""
    if dtype is None or isinstance(reduction, nn.Identity):
        result: Tensor = reduction(streams)
    else:
        result = reduction(streams, dtype)
    return result
