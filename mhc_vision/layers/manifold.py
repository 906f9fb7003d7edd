"""Manifold-constrained hyper-connections (mHC): `res` lives on a manifold, `pre` and `post` are bounded."""

import itertools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.checks import check_number
from mhc_vision.kernels import Coefficients
from mhc_vision.kernels.checks import check_eps, check_num_iters
from mhc_vision.kernels.precision import accumulation_dtype
from mhc_vision.layers.connection import (
    NOTHING_LEARNS,
    HyperConnection,
    Opened,
    initial_pre,
    initial_pre_logits,
    parameter_dtype,
    published_pre_init,
    register_map,
)
from mhc_vision.layers.constraints import IdentityConstraint, create_constraint


class ManifoldHyperConnection(HyperConnection):
    """Hyper-connection with pre = σ(H̃_pre), post = 2σ(H̃_post) and a constrained res (mHC, arXiv 2512.24880, Eq. 7-9).

    The logits H̃ = α · (rms_norm(vec(X)) φ) + b are made by each token from all its streams. They start as published
    (appendix A.6 of the ICML 2026 version): α = 0.01, φ = 0, b of `pre` ±3, of `post` 0, of `res` 6·I - 3. Only the
    sigmoids of `pre` are divided by their sum, so that the connection starts as a plain residual connection: pre sums
    to one, post is one, the rows of res sum to one.

    A map that does not learn is the constant of the paper's ablation: pre = 1/n, post = 1, res = I. Two of these leave
    the n streams of every token equal, since they start as copies, so that `res` does nothing:
    - post = 1, as the rows of res sum to one. With norms on what branches read, this is a plain residual connection;
    - pre = 1/n, as nothing then tells one stream from another. `pre_init` makes it favour one all the same.

    Args:
        dim: channels C of a stream.
        num_streams: n, from 1 to 8.
        layer_index: which branch of the network this is, counted from 0.
        learn_pre: make `pre` learn; see `HyperConnection`.
        learn_post: make `post` learn.
        learn_res: make `res` learn; false is `constraint='identity'`, whatever the constraint.
        sinkhorn_iters: iterations of the `sinkhorn` constraint, at least 1.
        constraint: of `res`: `sinkhorn` (the paper's), `permutation` (n <= 5), `kronecker` (n a power of two),
            `orthogonal` or `identity` (res = I, no parameters).
        pre_init: initial entry of `pre` for the favoured stream, between 0 and 1; the others share the rest. None is
            the published start where `pre` learns (0.87 for n = 4), and 1/n where it does not. Without effect for
            n = 1, where `pre` starts close to one.
        res_init: initial off-diagonal logit of `res` against 0 on the diagonal, from -30 to 0; -6 is the published
            start. The farther from 0, the longer streams stay apart: with n = 4, 99 % of a difference between them
            survives a branch at -6, 83 % at -3. `permutation` and `kronecker` start with the diagonal that this gives;
            `orthogonal` and `identity` with the identity.
        eps: of the RMS norm, positive.
        device: of the parameters.
        dtype: of the model; the parameters are fp32 where it is narrower.

    Raises:
        ValueError: an argument out of range, an unknown constraint, one that does not exist for `num_streams`, or no
            map that learns.
    """

    pre: Tensor  # where it does not learn

    def __init__(
        self,
        dim: int,
        num_streams: int = 4,
        layer_index: int = 0,
        learn_pre: bool = True,
        learn_post: bool = True,
        learn_res: bool = True,
        sinkhorn_iters: int = 20,
        constraint: str = "sinkhorn",
        pre_init: float | None = None,
        res_init: float = -6.0,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, num_streams, layer_index, learn_pre, learn_post, learn_res)
        check_num_iters(sinkhorn_iters, "sinkhorn_iters")
        if pre_init is None:
            pre_init = published_pre_init(num_streams) if learn_pre else 1 / num_streams
        else:
            check_number("pre_init", pre_init, above=0, below=1)
        check_number("res_init", res_init, at_least=-30, at_most=0)
        check_eps(eps)
        self.pre_init = pre_init
        self.res_init = res_init
        self.eps = eps
        self.constraint = create_constraint(constraint, num_streams, sinkhorn_iters, device)
        if not learn_res:
            self.constraint = create_constraint("identity", num_streams)
        self.mixes_streams = not isinstance(self.constraint, IdentityConstraint)
        # rows of weight and bias: pre n | post n | res, of the maps that learn, with one scale for each map
        rows = (num_streams * learn_pre, num_streams * learn_post, self.constraint.num_logits)
        self.rows_of_maps = [count for count in rows if count > 0]
        if not self.rows_of_maps:
            raise ValueError(NOTHING_LEARNS)
        num_logits, dtype = sum(rows), parameter_dtype(dtype)
        self.weight = nn.Parameter(torch.empty(num_logits, num_streams * dim, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.empty(len(self.rows_of_maps), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_logits, device=device, dtype=dtype))
        if not learn_pre:
            register_map(self, "pre", torch.empty(num_streams, device=device, dtype=dtype), learns=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """φ = 0, α = 0.01 and the bias that makes a plain residual connection of it."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.scale, 0.01)
        self.constraint.reset_parameters()
        start = (self.num_streams, self.layer_index, self.pre_init)
        logits = [self.constraint.initial_logits(self.res_init)]
        if self.learn_post:
            logits.insert(0, torch.zeros(self.num_streams))
        if self.learn_pre:
            logits.insert(0, initial_pre_logits(*start))
        with torch.no_grad():
            if not self.learn_pre:
                self.pre.copy_(initial_pre(*start))
            self.bias.copy_(torch.cat(logits))

    def coefficients(self, streams: Tensor) -> Coefficients:
        """Maps of every token: (..., n), (..., n), (..., n, n); without (...) those that do not learn, and identity."""
        logits = kernels.stream_logits(streams, self.weight, self.row_scale(), self.bias, self.eps)
        if self.learn_pre:
            pre = torch.sigmoid(logits[..., : self.num_streams])
            logits = logits[..., self.num_streams :]
        else:
            pre = self.pre
        res, post = self._bounded(logits)
        return Coefficients(pre, post, res)

    def read(self, streams: Tensor, dtype: torch.dtype | None = None) -> Opened:
        """As in `HyperConnection`; where `pre` and `post` learn, logits and branch input take one pass over streams."""
        if self.learn_pre and self.learn_post:
            tokens, logits, streams = kernels.branch_input(
                streams, self.weight, self.row_scale(), self.bias, self.eps, dtype
            )
            res, post = self._bounded(logits)
        else:
            pre, post, res = self.coefficients(streams)
            tokens = kernels.read_streams(streams, pre, dtype)
        return Opened(tokens, streams, res, post)

    def merge(self, streams: Tensor, output: Tensor, res: Tensor, post: Tensor) -> Tensor:
        """As in `HyperConnection`; where `res` is the identity, the output is added and nothing is mixed."""
        if self.mixes_streams:
            return kernels.merge_streams(streams, output, res, post)
        return kernels.add_output(streams, output, post)

    @classmethod
    def describe_state(cls, entries: Mapping[str, Tensor], dim: int) -> str | None:
        """The number of streams, and the logits, which differ between constraints, and the maps that learn."""
        if not {"weight", "scale", "bias"} <= entries.keys():
            return None
        num_streams = entries["weight"].shape[-1] // dim
        return f"num_streams={num_streams} and {len(entries['bias'])} logits of {len(entries['scale'])} maps"

    def macs(self) -> int:
        """And the projection, n·C for each row of φ: (n² + 2n)·n·C for Sinkhorn, where all maps learn.

        The identity has no n²·C to mix streams.
        """
        mixing = 0 if self.mixes_streams else self.num_streams**2 * self.dim
        return super().macs() - mixing + len(self.weight) * self.num_streams * self.dim

    def row_scale(self) -> Tensor:
        """One scale per row of `weight`: the one of the row's map."""
        return torch.cat([self.scale[i].expand(rows) for i, rows in enumerate(self.rows_of_maps)])

    def all_rows(self, row_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, one scale per row, and bias; also rows of a constant `pre` or `post`, whose logits are biases."""
        n = self.num_streams
        rows: tuple[Tensor, Tensor, Tensor] = (self.weight, row_scale, self.bias)
        if not self.learn_post:
            rows = _with_constant(rows, n * self.learn_pre, self.bias.new_zeros(n))
        return rows if self.learn_pre else _with_constant(rows, 0, self._constant_logits())

    def _constant_logits(self) -> Tensor:
        # in the dtype of the parameters, which a cast of the model may narrow, their sigmoid would not be `pre`
        return torch.logit(self.pre.to(accumulation_dtype(self.pre.dtype)))

    def _bounded(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """`res` and `post` from their logits, (..., n + num_logits of the constraint)."""
        n = self.num_streams
        if self.learn_post:
            return self.constraint(logits[..., n:]), 2.0 * torch.sigmoid(logits[..., :n])
        return self.constraint(logits), torch.ones(n, dtype=logits.dtype, device=logits.device)


def why_no_logits(connection: ManifoldHyperConnection) -> str:
    """Why `all_rows` cannot make all maps of a connection, or an empty string."""
    if connection.num_streams == 1 and not connection.learn_pre:
        return "a constant pre of 1 is no sigmoid, as others are: learn_pre is false for one stream"
    return ""


def row_scales(connections: Iterable[ManifoldHyperConnection]) -> list[Tensor]:
    """`row_scale` of each connection, made for all that are alike in one op: one by one, each would take as long."""
    made: list[Tensor] = []
    for rows_of_maps, alike in itertools.groupby(connections, key=lambda connection: connection.rows_of_maps):
        scale = torch.stack([connection.scale for connection in alike])
        made += torch.cat([scale[:, i, None].expand(-1, rows) for i, rows in enumerate(rows_of_maps)], 1).unbind()
    return made


def _with_constant(rows: tuple[Tensor, Tensor, Tensor], index: int, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, scale and bias with rows at `index` that make these logits, whatever the token."""
    weight, scale, bias = rows
    zeros = logits.new_zeros(len(logits), weight.shape[1])
    return (
        torch.cat([weight[:index], zeros, weight[index:]]),
        torch.cat([scale[:index], zeros[:, 0], scale[index:]]),
        torch.cat([bias[:index], logits, bias[index:]]),
    )
