"""Dynamic hyper-connections (DHC): static maps plus a correction that each token makes for itself."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.kernels import Coefficients
from mhc_vision.kernels.checks import check_eps
from mhc_vision.layers.connection import HyperConnection, parameter_dtype
from mhc_vision.layers.static import describe_static_maps, register_static_maps, reset_static_maps


class DynamicHyperConnection(HyperConnection):
    """Hyper-connection whose maps are static + s · tanh(norm(X) W) (HC, arXiv 2409.19606, Eq. 10-13).

    The norm is a LayerNorm of each stream over its C channels. W has one column for `pre`, one for `post` and n for
    `res`; stream j's row of the product makes the entries that belong to input stream j. W starts at zero and the two
    scales at 0.01, so the start is that of `StaticHyperConnection`. A map that does not learn stays there; W and the
    scales have nothing for it.

    Args:
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        layer_index: which branch of the network this is, counted from 0.
        learn_pre: make `pre` learn; see `HyperConnection`.
        learn_post: make `post` learn.
        learn_res: make `res` learn.
        tanh: bound the correction by tanh, as the paper's default does; without it the product is used as it is.
        eps: of the LayerNorm, positive.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.

    Raises:
        ValueError: `dim`, `num_streams`, `layer_index` or `eps` out of range, or no map that learns.
    """

    pre: Tensor
    post: Tensor
    res: Tensor

    def __init__(
        self,
        dim: int,
        num_streams: int = 4,
        layer_index: int = 0,
        learn_pre: bool = True,
        learn_post: bool = True,
        learn_res: bool = True,
        tanh: bool = True,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, num_streams, layer_index, learn_pre, learn_post, learn_res)
        if not isinstance(tanh, bool):
            raise ValueError(f"tanh: got {tanh!r}, expected true or false")
        check_eps(eps)
        self.tanh = tanh
        self.eps = eps
        dtype = parameter_dtype(dtype)
        register_static_maps(self, device, dtype)
        self.norm_weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.norm_bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        # rows: pre 1 | post 1 | res n (one for each output stream), of the maps that learn
        num_rows = learn_pre + learn_post + num_streams * learn_res
        self.weight = nn.Parameter(torch.empty(num_rows, dim, device=device, dtype=dtype))
        # s_α of pre and res, s_β of post
        num_scales = (learn_pre or learn_res) + learn_post
        self.scale = nn.Parameter(torch.empty(num_scales, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start of `StaticHyperConnection`, with a dynamic part of zero."""
        reset_static_maps(self.pre, self.post, self.res, self.layer_index)
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.scale, 0.01)

    def coefficients(self, streams: Tensor) -> Coefficients:
        """Maps of every token: shapes (..., n), (..., n), (..., n, n); without (...) those that do not learn."""
        dynamic = kernels.project_streams(streams, self.norm_weight, self.norm_bias, self.weight, self.eps)
        if self.tanh:
            dynamic = torch.tanh(dynamic)
        pre, post, res = self.pre, self.post, self.res
        if self.learn_pre:
            pre = pre + self.scale[0] * dynamic[..., 0]
        if self.learn_post:
            post = post + self.scale[-1] * dynamic[..., int(self.learn_pre)]
        if self.learn_res:
            res = res + self.scale[0] * dynamic[..., -self.num_streams :].transpose(-2, -1)
        return Coefficients(pre, post, res)

    @classmethod
    def describe_state(cls, entries: Mapping[str, Tensor], dim: int) -> str | None:
        """The number of streams, and the maps that learn if not all do."""
        return describe_static_maps(entries) if "weight" in entries else None

    def macs(self) -> int:
        """And the projection, n·C for each row of W: (n + 2)·n·C where all maps learn."""
        return super().macs() + len(self.weight) * self.num_streams * self.dim
