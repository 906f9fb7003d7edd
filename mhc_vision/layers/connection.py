"""HyperConnection: the base of all connections, which reads, merges and observes, whatever makes the maps."""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mhc_vision import kernels
from mhc_vision.checks import check_whole_number
from mhc_vision.kernels import Coefficients
from mhc_vision.kernels.checks import check_dtype, check_num_streams

Observer = Callable[[Tensor, Tensor, Coefficients], None]
"""Gets the streams (..., n, C) before a branch, the tokens (..., C) that the branch reads, and the maps."""

NOTHING_LEARNS = "learn_pre, learn_post, learn_res: got no map that learns, expected one; or take the plain model"


class Opened(NamedTuple):
    """What a connection hands out before its branch: the branch's input, and what `merge` needs after it."""

    tokens: Tensor
    """(..., C): what the branch reads."""
    streams: Tensor
    """(..., n, C): the streams to merge."""
    res: Tensor
    """(..., n, n), `[out, in]`, or (n, n): what the streams become."""
    post: Tensor
    """(..., n), or (n,): how much of the branch output each stream receives."""


class ConnectionModule(nn.Module):
    """What a connection or another residual design adds to a model: `connection_parameters` yields its parameters.

    Attributes:
        has_own_rate: whether they learn at a rate of their own, and not at the backbone's.
    """

    has_own_rate: ClassVar[bool] = True


class HyperConnection(ConnectionModule, ABC):
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
        self._observers: OrderedDict[int, Observer] = OrderedDict()

    @abstractmethod
    def coefficients(self, streams: Tensor) -> Coefficients:
        """The three maps for these streams, (..., n, C)."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Set every parameter to its initial value, at which the connection is a plain residual connection."""

    def make_plain(self) -> None:
        """Set every parameter to a value at which the connection is a plain residual connection: the initial one."""
        self.reset_parameters()

    def init_weights(self) -> None:
        """timm's name for `reset_parameters`."""
        self.reset_parameters()

    def open(self, streams: Tensor, dtype: torch.dtype | None = None) -> Opened:
        """What the branch reads, and what `merge` needs after it; observers see it.

        Args:
            streams: (..., n, C).
            dtype: of what the branch reads; None is that of the streams.
        """
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out what this alone guards)
            if self.is_observed():
                return self._open_observed(streams, dtype)
        return self.read(streams, dtype)

    def read(self, streams: Tensor, dtype: torch.dtype | None = None) -> Opened:
        """`open` without observers; for subclasses that make maps and read in one pass over the streams."""
        pre, post, res = self.coefficients(streams)
        return Opened(kernels.read_streams(streams, pre, dtype), streams, res, post)

    def merge(self, streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
        """(..., n, C), (..., C), (..., n, n), (..., n) -> (..., n, C): the streams after the branch's `output`."""
        return kernels.merge_streams(streams, output, res, post)

    def register_observer(self, observer: Observer) -> RemovableHandle:
        """Call `observer(streams, tokens, maps)`, with detached tensors, each time the connection is opened.

        The maps are made by `coefficients` then, and the model runs block by block. TorchScript has no observers.

        Args:
            observer: gets the streams (..., n, C), the branch's input (..., C) and the maps: (..., n), (..., n) and
                (..., n, n), or without (...) where all tokens share them.

        Returns:
            A handle whose `remove()` ends it.
        """
        handle = RemovableHandle(self._observers)
        self._observers[handle.id] = observer
        return handle

    def is_observed(self) -> bool:
        """Whether there are observers, which need the maps of every call of `open`."""
        return bool(self._observers)

    def _open_observed(self, streams: Tensor, dtype: torch.dtype | None) -> Opened:
        pre, post, res = self.coefficients(streams)
        opened = Opened(kernels.read_streams(streams, pre, dtype), streams, res, post)
        maps = Coefficients(pre.detach(), post.detach(), res.detach())
        for observer in list(self._observers.values()):
            observer(streams.detach(), opened.tokens.detach(), maps)
        return opened

    def macs(self) -> int:
        """Multiply-accumulates for one token: n·C to read and (n² + n)·C to merge.

        Subclasses add what their maps cost. What is the same for every channel is left out: tanh, sigmoid,
        Sinkhorn-Knopp.
        """
        n = self.num_streams
        return n * self.dim + (n * n + n) * self.dim

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

    @classmethod
    def describe_state(cls, entries: Mapping[str, Tensor], dim: int) -> str | None:
        """What the entries of a state dict say about a connection of this class, for messages and comparisons.

        Args:
            entries: of one connection, named as its parameters are.
            dim: channels C.

        Returns:
            The options that show, here as the shapes of all parameters; None if another class made the entries.
        """
        names = [name for name, _ in cls(1, device="meta").named_parameters()]  # type: ignore[call-arg]
        if not entries or sorted(entries) != sorted(names):
            return None
        return ", ".join(f"{name} {tuple(entries[name].shape)}" for name in names)

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


def published_pre_init(num_streams: int) -> float:
    """Share of the favoured stream where the logits of `pre` are 3 for it and -3 for the others (mHC, appendix A.6)."""
    favoured, other = (1.0 / (1.0 + math.exp(-logit)) for logit in (3.0, -3.0))
    return favoured / (favoured + (num_streams - 1) * other)


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
