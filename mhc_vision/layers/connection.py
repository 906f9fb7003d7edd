"""HyperConnection: what every connection does, whatever makes its coefficients."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mhc_vision.checks import check_whole_number
from mhc_vision.kernels import Coefficients, merge_streams, read_streams
from mhc_vision.kernels.checks import check_dtype, check_num_streams

torch.fx.wrap("read_streams")
torch.fx.wrap("merge_streams")

NOTHING_LEARNS = "learn_pre, learn_post, learn_res: no map learns; expected one that does, or the plain model"


class HyperConnection(nn.Module, ABC):
    """A residual connection over `num_streams` streams, around any branch that maps (..., C) to (..., C).

    u = pre · X is what the branch reads, X' = res · X + postᵀ · F(u) what the streams become (HC, arXiv 2409.19606,
    Eq. 2-3; mHC, arXiv 2512.24880, Eq. 3). Subclasses differ only in how they make the maps. A plain residual
    connection is the case n = 1 with all maps equal to one.

    Args:
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        layer_index: which branch of the network this is, counted from 0; stream `layer_index mod n` is favoured in the
            initial `pre`.
        learn_pre: make `pre` learn. A map that does not learn is constant and has no parameters.
        learn_post: make `post` learn.
        learn_res: make `res` learn.

    Raises:
        ValueError: `dim`, `num_streams` or `layer_index` out of range, or no map that learns.
    """

    # TorchScript then leaves out what belongs to a map that it does not have
    __constants__ = ("learn_pre", "learn_post", "learn_res")

    def __init__(
        self,
        dim: int,
        num_streams: int = 4,
        layer_index: int = 0,
        learn_pre: bool = True,
        learn_post: bool = True,
        learn_res: bool = True,
    ) -> None:
        super().__init__()
        check_num_streams(num_streams)
        check_whole_number("dim", dim, at_least=1)
        check_whole_number("layer_index", layer_index, at_least=0)
        for name, learns in (("learn_pre", learn_pre), ("learn_post", learn_post), ("learn_res", learn_res)):
            if not isinstance(learns, bool):
                raise ValueError(f"{name}: got {learns!r}, expected true or false")
        if not (learn_pre or learn_post or learn_res):
            raise ValueError(NOTHING_LEARNS)
        self.dim = dim
        self.num_streams = num_streams
        self.layer_index = layer_index
        self.learn_pre = learn_pre
        self.learn_post = learn_post
        self.learn_res = learn_res

    @abstractmethod
    def coefficients(self, streams: Tensor) -> Coefficients:
        """The three maps for these streams, (..., n, C)."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Set every parameter to its initial value, at which the connection is a plain residual connection."""

    def init_weights(self) -> None:
        """timm's name for `reset_parameters`."""
        self.reset_parameters()

    def open(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the branch reads, and what `merge` needs after it.

        Args:
            streams: (..., n, C).

        Returns:
            The input of the branch, (..., C); the streams to merge, (..., n, C); the maps `res` and `post`.
        """
        pre, post, res = self.coefficients(streams)
        return read_streams(streams, pre), streams, res, post

    def merge(self, streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
        """(..., n, C), (..., C), (..., n, n), (..., n) -> (..., n, C): the streams after the branch's `output`."""
        return merge_streams(streams, output, res, post)

    @torch.jit.unused
    def forward(self, streams: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Run `branch` inside the connection.

        Args:
            streams: (..., n, C).
            branch: any callable from (..., C) to (..., C).

        Returns:
            (..., n, C), dtype of `streams`.
        """
        tokens, streams, res, post = self.open(streams)
        return self.merge(streams, branch(tokens), res, post)

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        text = f"dim={self.dim}, num_streams={self.num_streams}, layer_index={self.layer_index}"
        switches = {"learn_pre": self.learn_pre, "learn_post": self.learn_post, "learn_res": self.learn_res}
        return text + "".join(f", {name}=False" for name, learns in switches.items() if not learns)


def parameter_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Dtype of a connection's parameters in a model of `dtype`: at least fp32, since coefficients are made in fp32.

    Raises:
        ValueError: a dtype that parameters cannot have.
    """
    check_dtype(dtype)
    return torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)


def register_map(connection: nn.Module, name: str, values: Tensor, learns: bool) -> None:
    """Give a connection a map: a parameter, or the buffer of one that does not learn, which checkpoints leave out."""
    if learns:
        connection.register_parameter(name, nn.Parameter(values))
    else:
        connection.register_buffer(name, values, persistent=False)


def initial_pre(num_streams: int, layer_index: int, pre_init: float) -> Tensor:
    """`pre` (n,) in fp64, which sums to one: `pre_init` for stream `layer_index mod n`, the rest shared equally."""
    if num_streams == 1:
        return torch.ones(1, dtype=torch.float64)
    pre = torch.full((num_streams,), (1.0 - pre_init) / (num_streams - 1), dtype=torch.float64)
    pre[layer_index % num_streams] = pre_init
    return pre


def initial_pre_logits(num_streams: int, layer_index: int, pre_init: float) -> Tensor:
    """Logits (n,) whose sigmoids are `initial_pre`, or nearly so for one stream."""
    if num_streams == 1:
        # σ(10) = 0.99995: a sigmoid reaches one only where it no longer moves
        return torch.tensor([10.0])
    return torch.logit(initial_pre(num_streams, layer_index, pre_init)).float()
