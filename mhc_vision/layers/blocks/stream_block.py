"""StreamBlock: turns any of timm's transformer blocks with two branches into a hyper-connected one."""

from typing import Any

from torch import nn

from mhc_vision.checks import check_whole_number
from mhc_vision.layers.factory import create_connection


class StreamBlock(nn.Module):
    """Base of all blocks between streams; combined with a timm block, whose modules and names it keeps.

    `connection1` sits around attention and `connection2` around the MLP. Whatever the block applies to a branch output,
    (B, N, C), such as LayerScale and DropPath, stays there. `expansion` and `reduction` do nothing until a model puts
    its entry into the streams and its read-out there (in its first and its last block), so that a stack of blocks maps
    tokens to tokens. A block runs its connections' `open` and `merge`, not their `forward`: forward hooks fire on
    the modules of the branches, on `connection1.constraint` and on `reduction`, but not on the connections themselves.
    """

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
