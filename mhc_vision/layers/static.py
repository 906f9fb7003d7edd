"""Static hyper-connections (SHC): the maps are parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mhc_vision.kernels import Coefficients
from mhc_vision.layers.connection import HyperConnection, parameter_dtype, register_map


class StaticHyperConnection(HyperConnection):
    """Hyper-connection whose maps are free parameters, the same for every token: n(n + 2) parameters.

    Starts as B = 1, A_m = e_{k mod n}, A_r = I (HC, arXiv 2409.19606, Eq. 14); `res` is A_rᵀ, `[out, in]`. A map that
    does not learn stays there: without `pre` and `res` it is the paper's frozen width connection.

    Args:
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        layer_index: which branch of the network this is, counted from 0.
        learn_pre: make `pre` learn; see `HyperConnection`.
        learn_post: make `post` learn.
        learn_res: make `res` learn.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.

    Raises:
        ValueError: `dim`, `num_streams` or `layer_index` out of range, or no map that learns.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, num_streams, layer_index, learn_pre, learn_post, learn_res)
        register_static_maps(self, device, parameter_dtype(dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Read stream `layer_index mod n`, write to all streams, leave the streams as they are."""
        reset_static_maps(self.pre, self.post, self.res, self.layer_index)

    def coefficients(self, streams: Tensor) -> Coefficients:
        """The maps themselves: shapes (n,), (n,), (n, n), one for all tokens."""
        return Coefficients(self.pre, self.post, self.res)

    @classmethod
    def describe_state(cls, entries: Mapping[str, Tensor], dim: int) -> str | None:
        """The number of streams, and the maps that learn if not all do."""
        return None if "weight" in entries else describe_static_maps(entries)


def register_static_maps(connection: HyperConnection, device: torch.device | str | None, dtype: torch.dtype) -> None:
    """Give a connection its `pre`, `post` and `res`, to be filled by `reset_static_maps`."""
    n = connection.num_streams
    register_map(connection, "pre", torch.empty(n, device=device, dtype=dtype), connection.learn_pre)
    register_map(connection, "post", torch.empty(n, device=device, dtype=dtype), connection.learn_post)
    register_map(connection, "res", torch.empty(n, n, device=device, dtype=dtype), connection.learn_res)


def describe_static_maps(entries: Mapping[str, Tensor]) -> str | None:
    """The number of streams, and the maps that learn if not all do; None if there are no maps."""
    maps = [name for name in ("pre", "post", "res") if name in entries]
    if not maps:
        return None
    learned = "" if len(maps) == 3 else f", learned: {' and '.join(maps)}"
    return f"num_streams={len(entries[maps[0]])}{learned}"


@torch.no_grad()
def reset_static_maps(pre: Tensor, post: Tensor, res: Tensor, layer_index: int) -> None:
    """Fill the maps with the start of the HC paper: pre = e_{k mod n}, post = 1, res = I (Eq. 14)."""
    pre.zero_()[layer_index % pre.numel()] = 1.0
    nn.init.ones_(post)
    nn.init.eye_(res)
