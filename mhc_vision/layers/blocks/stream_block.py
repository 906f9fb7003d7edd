"""StreamBlock: turns any of timm's transformer blocks with two branches into a hyper-connected one."""

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mhc_vision.checks import check_whole_number
from mhc_vision.layers.blocks.steps import PreNorm, Step
from mhc_vision.layers.factory import create_connection


class StreamBlock(nn.Module):
    """Base of all blocks between streams; combined with a timm block, whose modules and names it keeps.

    `connection1` sits around attention and `connection2` around the MLP. Whatever the block applies to a branch output,
    (B, N, C), such as LayerScale and DropPath, stays there. `expansion` and `reduction` do nothing until a model puts
    its entry into the streams and its read-out there (in its first and its last block), so that a stack of blocks maps
    tokens to tokens. A block runs its connections' `open` and `merge`, not their `forward`: forward hooks fire on
    the modules of the branches, on `connection1.constraint` and on `reduction`, but not on the connections themselves.

    A subclass has `attention_branch`, `mlp_branch` and `steps`, which says the same to stacks; one that changes what a
    block does has to say its steps anew, or runs block by block.

    Attributes:
        stream_dtype: of the streams, as in `stream_dtype_of`; see `set_stream_dtype`.
        has_steps: whether `steps` is what `forward` does.
    """

    stream_dtype: str = "model"
    has_steps: ClassVar[bool] = False

    if TYPE_CHECKING:
        attention_branch: Any
        mlp_branch: Any
        steps: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        said = next((base for base in cls.__mro__ if "steps" in vars(base)), None)
        names = ("forward", "attention_branch", "mlp_branch")
        cls.has_steps = said is not None and all(getattr(cls, name) is getattr(said, name) for name in names)

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

    def make_steps(
        self, parts: tuple[PreNorm | None, PreNorm | None] = (None, None), **arguments: Any
    ) -> tuple[Step, Step]:
        """Attention and MLP as steps, from their parts, if any, and the arguments of `attention_branch`."""
        attention_branch = partial(self.attention_branch, **arguments)
        return Step(self.connection1, attention_branch, parts[0]), Step(self.connection2, self.mlp_branch, parts[1])

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
