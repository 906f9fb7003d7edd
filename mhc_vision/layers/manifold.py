"""Manifold-constrained hyper-connections (mHC): `res` lives on a manifold, `pre` and `post` are bounded."""

import torch
from torch import Tensor, nn

from mhc_vision.kernels import Coefficients, branch_input, stream_logits
from mhc_vision.kernels.checks import check_num_iters
from mhc_vision.layers.connection import HyperConnection, initial_pre_logits, parameter_dtype
from mhc_vision.layers.constraints import create_constraint

torch.fx.wrap("branch_input")
torch.fx.wrap("stream_logits")


class ManifoldHyperConnection(HyperConnection):
    """Hyper-connection with pre = σ(H̃_pre), post = 2σ(H̃_post) and a constrained res (mHC, arXiv 2512.24880, Eq. 7-9).

    The logits H̃ = α · (rms_norm(vec(X)) φ) + b are made by each token from all its streams. The paper publishes
    α = 0.01 at the start, but neither b nor φ; here φ = 0 and b is such that the connection is a plain residual
    connection: pre sums to one, post is one, the rows of res sum to one.

    Args:
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        layer_index: which branch of the network this is, counted from 0.
        sinkhorn_iters: iterations of the `sinkhorn` constraint, at least 1.
        constraint: of `res`: `sinkhorn` (the paper's), `permutation` (n <= 5), `kronecker` (n a power of two),
            `orthogonal` or `identity` (res = I, no parameters).
        pre_init: initial entry of `pre` for the favoured stream, between 0 and 1; the others share the rest. Without
            meaning for n = 1, where `pre` starts as close to one as a sigmoid that can still move comes.
        res_init: initial off-diagonal logit of `res` against 0 on the diagonal, from -30 to 0. `permutation` and
            `kronecker` start with the diagonal that this gives; `orthogonal` and `identity` with the identity.
        eps: of the RMS norm.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.

    Raises:
        ValueError: an argument out of range, an unknown constraint, or one that does not exist for `num_streams`.
    """

    def __init__(
        self,
        dim: int,
        num_streams: int = 4,
        layer_index: int = 0,
        sinkhorn_iters: int = 20,
        constraint: str = "sinkhorn",
        pre_init: float = 0.7,
        res_init: float = -3.0,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, num_streams, layer_index)
        check_num_iters(sinkhorn_iters, "sinkhorn_iters")
        if not isinstance(pre_init, int | float) or not 0.0 < pre_init < 1.0:
            raise ValueError(f"pre_init: got {pre_init!r}, expected a number between 0 and 1")
        if not isinstance(res_init, int | float) or not -30.0 <= res_init <= 0.0:
            raise ValueError(f"res_init: got {res_init!r}, expected a number from -30 to 0")
        self.pre_init = pre_init
        self.res_init = res_init
        self.eps = eps
        self.constraint = create_constraint(constraint, num_streams, sinkhorn_iters, device)
        num_logits = 2 * num_streams + self.constraint.num_logits
        self.num_res_logits = self.constraint.num_logits
        dtype = parameter_dtype(dtype)
        # rows of weight and bias: pre n | post n | res
        self.weight = nn.Parameter(torch.empty(num_logits, num_streams * dim, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.empty(3 if self.num_res_logits else 2, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_logits, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """φ = 0, α = 0.01 and the bias that makes a plain residual connection of it."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.scale, 0.01)
        self.constraint.reset_parameters()
        post = torch.zeros(self.num_streams)
        pre = initial_pre_logits(self.num_streams, self.layer_index, self.pre_init)
        with torch.no_grad():
            self.bias.copy_(torch.cat([pre, post, self.constraint.initial_logits(self.res_init)]))

    def coefficients(self, streams: Tensor) -> Coefficients:
        """Maps of every token: shapes (..., n), (..., n), (..., n, n); for `identity`, res is (n, n)."""
        n = self.num_streams
        logits = stream_logits(streams, self.weight, self.row_scale(), self.bias, self.eps)
        res, post = self._bounded(logits[..., n:])
        return Coefficients(torch.sigmoid(logits[..., :n]), post, res)

    def open(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As in `HyperConnection`, with one pass over the streams for the logits and the input of the branch."""
        tokens, logits, streams = branch_input(streams, self.weight, self.row_scale(), self.bias, self.eps)
        res, post = self._bounded(logits)
        return tokens, streams, res, post

    def row_scale(self) -> Tensor:
        """One scale a row of `weight`, from the three (or two) that the connection has."""
        n = self.num_streams
        return torch.cat([self.scale[0].expand(n), self.scale[1].expand(n), self.scale[2:].expand(self.num_res_logits)])

    def _bounded(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """`res` and `post` from their logits, (..., n + num_res_logits)."""
        n = self.num_streams
        return self.constraint(logits[..., n:]), 2.0 * torch.sigmoid(logits[..., :n])
