"""Expansion of tokens to streams, and the read-out that joins them again."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.checks import check_choice, check_whole_number
from mhc_vision.kernels.checks import check_eps, check_num_streams
from mhc_vision.kernels.precision import accumulation_dtype
from mhc_vision.layers.connection import ConnectionModule, initial_pre_logits, parameter_dtype

EXPANSIONS = ("copy", "scaled")
"""Values of `stream_expand`: how tokens become the first streams."""
REDUCTIONS = ("mean", "sum", "gated")
"""Values of `stream_reduce`: how the last streams become tokens."""
STREAM_DTYPES = ("model", "auto", "float32", "bfloat16")
"""Values of `stream_dtype`: what streams are rounded to; see `stream_dtype_of`."""


def stream_dtype_of(tokens: Tensor, stream_dtype: str) -> torch.dtype:
    """The dtype of the streams that these tokens become.

    Args:
        tokens: at the entry of the first block.
        stream_dtype: `model` for the dtype of the tokens, which stays fp32 under autocast; `auto` for bf16 under bf16
            autocast, and else the same; `float32` or `bfloat16`. Graphs of `torch.fx` take `auto` for `model`.
    """
    # what `torch.fx` traces with is no tensor, and has no device
    if stream_dtype == "auto" and isinstance(tokens, Tensor):
        device = tokens.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        narrow = autocast and torch.get_autocast_dtype(device) == torch.bfloat16
        return torch.bfloat16 if narrow else tokens.dtype
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(stream_dtype, tokens.dtype)


def expand_streams(x: Tensor, num_streams: int) -> Tensor:
    """Copy each token into `num_streams` streams (HC, arXiv 2409.19606).

    Args:
        x: (..., C).
        num_streams: n, from 1 to 8.

    Returns:
        (..., n, C), contiguous.

    Raises:
        ValueError: `num_streams` out of range.
    """
    check_num_streams(num_streams)
    return _copies(x, num_streams)


def reduce_streams(streams: Tensor, mode: str = "mean", dtype: torch.dtype | None = None) -> Tensor:
    """Join the streams of each token.

    Args:
        streams: (..., n, C).
        mode: `'mean'`, or `'sum'` as in the HC paper.
        dtype: of the result; None is that of the streams.

    Returns:
        (..., C), added up in fp32 at least and rounded once.

    Raises:
        ValueError: unknown mode. A gated reduction has parameters: it is the module `GatedReduction`.
    """
    if mode == "mean":
        return streams.mean(-2) if dtype is None else streams.mean(-2, dtype=accumulation_dtype(dtype)).to(dtype)
    if mode == "sum":
        return streams.sum(-2) if dtype is None else streams.sum(-2, dtype=accumulation_dtype(dtype)).to(dtype)
    raise ValueError(f"mode: got '{mode}', expected 'mean' or 'sum'")


class StreamExpansion(nn.Module):
    """`expand_streams` as a module.

    Args:
        num_streams: n, from 1 to 8.

    Attributes:
        stream_dtype: of the streams, as in `stream_dtype_of`; TorchScript keeps that of the tokens.
    """

    stream_dtype: str = "model"

    def __init__(self, num_streams: int) -> None:
        super().__init__()
        check_num_streams(num_streams)
        self.num_streams = num_streams

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., n, C)."""
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out what this alone guards)
            if self.stream_dtype != "model":
                x = x.to(stream_dtype_of(x, self.stream_dtype))
                # sums its gradient in fp32, as a stack would not, and no autocast looks at its dtype
                return x.unsqueeze(-2).repeat_interleave(self.num_streams, -2)
        return _copies(x, self.num_streams)


class ScaledExpansion(ConnectionModule):
    """Learned expansion: stream s is x ∘ w_s, so that streams differ from the first one on (arXiv 2606.03483).

    w starts as 0.6 plus Xavier noise, drawn from N(0, 2 / (n + C)). For training from scratch: copies alone keep the
    function of a plain model. The scales weigh channels as an embedding does and make no map, so they learn at the
    backbone's rate.

    Args:
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.

    Attributes:
        stream_dtype: of the streams, as in `stream_dtype_of`; TorchScript keeps that of the tokens.

    Raises:
        ValueError: `dim`, `num_streams` or `dtype` out of range.
    """

    has_own_rate: ClassVar[bool] = False
    stream_dtype: str = "model"

    def __init__(
        self,
        dim: int,
        num_streams: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_whole_number("dim", dim, at_least=1)
        check_num_streams(num_streams)
        self.num_streams = num_streams
        self.scale = nn.Parameter(torch.empty(num_streams, dim, device=device, dtype=parameter_dtype(dtype)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """0.6 and noise of torch's random numbers."""
        nn.init.xavier_normal_(self.scale).add_(0.6)

    @torch.no_grad()
    def make_plain(self) -> None:
        """The mean of the scales for all streams: copies again, of tokens that a plain model's embedding could make."""
        self.scale.copy_(self.scale.mean(0))

    def init_weights(self) -> None:
        """timm's name for `reset_parameters`."""
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., n, C), rounded once."""
        streams = x.unsqueeze(-2) * self.scale
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out what this alone guards)
            if self.stream_dtype != "model":
                return streams.to(stream_dtype_of(x, self.stream_dtype))
        return streams.to(x.dtype)


class StreamReduction(nn.Module):
    """`reduce_streams` as a module.

    Args:
        mode: `mean` or `sum`.
    """

    def __init__(self, mode: str = "mean") -> None:
        super().__init__()
        check_choice("mode", mode, ("mean", "sum"))
        self.mode = mode

    def forward(self, streams: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(..., n, C) -> (..., C), in `dtype` or that of the streams."""
        return reduce_streams(streams, self.mode, dtype)

    def weights(self, streams: Tensor) -> Tensor:
        """What each stream counts in the result, the same for all tokens: (..., n, C) -> (n,)."""
        n = streams.shape[-2]
        return streams.new_full((n,), 1.0 / n if self.mode == "mean" else 1.0)


class GatedReduction(ConnectionModule):
    """Learned read-out: a weighted sum of the streams, with sigmoid weights made by each token.

    The weights are σ(α · (rms_norm(vec(X)) φ) + b), one per stream, as in DeepSeek-V4's public code. φ starts at zero
    and b such that the read-out starts as the mean.

    Args:
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        eps: of the RMS norm, positive.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.

    Raises:
        ValueError: `dim`, `num_streams`, `eps` or `dtype` out of range.
    """

    def __init__(
        self,
        dim: int,
        num_streams: int = 4,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_whole_number("dim", dim, at_least=1)
        check_num_streams(num_streams)
        check_eps(eps)
        self.dim = dim
        self.num_streams = num_streams
        self.eps = eps
        dtype = parameter_dtype(dtype)
        self.weight = nn.Parameter(torch.empty(num_streams, num_streams * dim, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_streams, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """φ = 0, α = 0.01, and equal weights 1/n."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.scale, 0.01)
        with torch.no_grad():
            self.bias.copy_(initial_pre_logits(self.num_streams, 0, 1 / self.num_streams))

    def make_plain(self) -> None:
        """Equal weights 1/n: the initial values."""
        self.reset_parameters()

    def init_weights(self) -> None:
        """timm's name for `reset_parameters`."""
        self.reset_parameters()

    def forward(self, streams: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(..., n, C) -> (..., C), in `dtype` or that of the streams."""
        return kernels.read_streams(streams, self.weights(streams), dtype)

    def weights(self, streams: Tensor) -> Tensor:
        """What each stream counts in the result: (..., n, C) -> (..., n)."""
        scale = self.scale.expand(self.num_streams)
        return torch.sigmoid(kernels.stream_logits(streams, self.weight, scale, self.bias, self.eps))


def _copies(x: Tensor, num_streams: int) -> Tensor:
    return torch.stack([x] * num_streams, -2)


def create_expansion(
    mode: str,
    dim: int,
    num_streams: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The expansion of this name: `copy` or `scaled`.

    Raises:
        ValueError: unknown name.
    """
    check_choice("stream_expand", mode, EXPANSIONS)
    if mode == "scaled":
        return ScaledExpansion(dim, num_streams, device=device, dtype=dtype)
    return StreamExpansion(num_streams)


def create_reduction(
    mode: str,
    dim: int,
    num_streams: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The read-out of this name: `mean`, `sum` or `gated`.

    Raises:
        ValueError: unknown name.
    """
    check_choice("stream_reduce", mode, REDUCTIONS)
    if mode == "gated":
        return GatedReduction(dim, num_streams, device=device, dtype=dtype)
    return StreamReduction(mode)
