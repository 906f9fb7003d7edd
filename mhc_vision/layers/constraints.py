"""Constraints on `res`: each turns free logits into a matrix (..., n, n), `[out, in]`, of one family.

A constraint knows how many logits it takes and at which logits `res` starts. Starts share one measure, `res_init`: the
matrix begins with the diagonal that logits 0 on and `res_init` off the diagonal give, 1 / (1 + (n - 1) e^res_init).
"""

import itertools
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mhc_vision import kernels
from mhc_vision.checks import check_choice


class Constraint(nn.Module, ABC):
    """A family of `res` matrices.

    Args:
        num_streams: n, from 1 to 8.
        num_logits: logits that one matrix takes.

    Attributes:
        doubly_stochastic: whether its matrices are non-negative with rows and columns that sum to one.
    """

    doubly_stochastic: ClassVar[bool] = True

    def __init__(self, num_streams: int, num_logits: int) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.num_logits = num_logits

    @abstractmethod
    def initial_logits(self, res_init: float) -> Tensor:
        """Logits (num_logits,) at which `res` favours the diagonal and its rows sum to one."""

    @abstractmethod
    def forward(self, logits: Tensor) -> Tensor:
        """(..., num_logits) -> (..., n, n)."""

    def reset_parameters(self) -> None:
        """Nothing to fill, unless a subclass holds buffers."""

    def init_weights(self) -> None:
        """timm's name for `reset_parameters`."""
        self.reset_parameters()

    def initial_diagonal(self, res_init: float) -> float:
        """The diagonal entry that `res_init` stands for."""
        return 1.0 / (1.0 + (self.num_streams - 1) * math.exp(res_init))


class SinkhornConstraint(Constraint):
    """Doubly stochastic by Sinkhorn-Knopp (mHC, arXiv 2512.24880, Eq. 8-9)."""

    def __init__(self, num_streams: int, num_iters: int = 20) -> None:
        super().__init__(num_streams, num_logits=num_streams * num_streams)
        self.num_iters = num_iters

    def initial_logits(self, res_init: float) -> Tensor:
        """Zero on the diagonal, `res_init` off it."""
        return (res_init * (1.0 - torch.eye(self.num_streams))).flatten()

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        return f"num_iters={self.num_iters}"

    def forward(self, logits: Tensor) -> Tensor:
        """(..., n²) -> (..., n, n)."""
        return kernels.sinkhorn_knopp(logits.unflatten(-1, (self.num_streams, self.num_streams)), self.num_iters)


class FixedBasisConstraint(Constraint):
    """A constraint that combines fixed matrices; they are a buffer, filled again by `reset_parameters`."""

    def __init__(self, num_streams: int, num_logits: int, device: torch.device | str | None = None) -> None:
        super().__init__(num_streams, num_logits)
        self.register_buffer("basis", self.fixed_matrices().to(device), persistent=False)
        self.basis: Tensor

    @abstractmethod
    def fixed_matrices(self) -> Tensor:
        """The matrices, flattened: (num_matrices, n²)."""

    def reset_parameters(self) -> None:
        """Fill the buffer, which a meta start leaves empty."""
        self.basis.copy_(self.fixed_matrices())

    def combine(self, weights: Tensor) -> Tensor:
        """(..., num_matrices) -> (..., n, n)."""
        n = self.num_streams
        return kernels.combine_matrices(weights, self.basis).unflatten(-1, (n, n))


class PermutationConstraint(FixedBasisConstraint):
    """Convex combination of the n! permutation matrices: doubly stochastic exactly (mHC-lite, arXiv 2601.05732)."""

    def __init__(self, num_streams: int, device: torch.device | str | None = None) -> None:
        if num_streams > 5:
            raise ValueError(
                f"num_streams: got {num_streams}, expected at most 5 for constraint='permutation' "
                f"({math.factorial(num_streams)} permutations)"
            )
        super().__init__(num_streams, math.factorial(num_streams), device)

    def fixed_matrices(self) -> Tensor:
        """All permutation matrices, the identity first."""
        identity = torch.eye(self.num_streams)
        return torch.stack(
            [identity[list(order)].flatten() for order in itertools.permutations(range(self.num_streams))]
        )

    def initial_logits(self, res_init: float) -> Tensor:
        """Zero for the identity and one value for all others, of which some leave an entry of the diagonal in place."""
        logits = torch.zeros(self.num_logits)
        if self.num_streams > 1:
            others = self.num_logits - 1
            fixing = (math.factorial(self.num_streams - 1) - 1) / others
            identity = (self.initial_diagonal(res_init) - fixing) / (1 - fixing)
            logits[1:] = math.log((1 - identity) / (identity * others))
        return logits

    def forward(self, logits: Tensor) -> Tensor:
        """(..., n!) -> (..., n, n)."""
        return self.combine(torch.softmax(logits, -1))


class KroneckerConstraint(Constraint):
    """Kronecker product of log2(n) doubly stochastic 2x2 matrices (KromHC, arXiv 2601.21579).

    Each factor is the convex combination, by softmax, of the two 2x2 permutations.
    """

    def __init__(self, num_streams: int) -> None:
        if num_streams & (num_streams - 1):
            raise ValueError(f"num_streams: got {num_streams}, expected a power of two for constraint='kronecker'")
        self.num_factors = num_streams.bit_length() - 1
        super().__init__(num_streams, num_logits=2 * self.num_factors)

    def initial_logits(self, res_init: float) -> Tensor:
        """Zero for the identity and one value for the swap, the same in all factors."""
        logits = torch.zeros(self.num_factors, 2)
        if self.num_factors > 0:
            identity = self.initial_diagonal(res_init) ** (1 / self.num_factors)
            logits[:, 1] = math.log(1 / identity - 1)
        return logits.flatten()

    def forward(self, logits: Tensor) -> Tensor:
        """(..., 2 log2(n)) -> (..., n, n)."""
        weights = torch.softmax(logits.unflatten(-1, (self.num_factors, 2)), -1)
        product = logits.new_ones(1, 1)
        for factor in range(self.num_factors):
            stay, swap = weights[..., factor, :1].unsqueeze(-1), weights[..., factor, 1:].unsqueeze(-1)
            product = torch.cat(
                [torch.cat([stay * product, swap * product], -1), torch.cat([swap * product, stay * product], -1)], -2
            )
        return product


class OrthogonalConstraint(FixedBasisConstraint):
    """Orthogonal by the Cayley transform (I + S)⁻¹ (I - S) of a skew-symmetric S (JPmHC, arXiv 2602.18308)."""

    doubly_stochastic: ClassVar[bool] = False

    def __init__(self, num_streams: int, device: torch.device | str | None = None) -> None:
        super().__init__(num_streams, num_streams * (num_streams - 1) // 2, device)

    def fixed_matrices(self) -> Tensor:
        """A basis of the skew-symmetric matrices."""
        upper = torch.triu_indices(self.num_streams, self.num_streams, offset=1)
        basis = torch.zeros(self.num_logits, self.num_streams, self.num_streams)
        entry = torch.arange(self.num_logits)
        basis[entry, upper[0], upper[1]] = 1.0
        basis[entry, upper[1], upper[0]] = -1.0
        return basis.flatten(1)

    def initial_logits(self, res_init: float) -> Tensor:
        """Zero, where the matrix is the identity; `res_init` has no meaning, since rows elsewhere do not sum to one."""
        return torch.zeros(self.num_logits)

    def forward(self, logits: Tensor) -> Tensor:
        """(..., n (n - 1) / 2) -> (..., n, n)."""
        skew = self.combine(logits)
        identity = torch.eye(self.num_streams, dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(identity + skew, identity - skew)


class IdentityConstraint(Constraint):
    """`res` = I: streams are never mixed; no logits."""

    def __init__(self, num_streams: int) -> None:
        super().__init__(num_streams, num_logits=0)

    def initial_logits(self, res_init: float) -> Tensor:
        """Empty."""
        return torch.zeros(0)

    def forward(self, logits: Tensor) -> Tensor:
        """(..., 0) -> (n, n), one map for all tokens."""
        return torch.eye(self.num_streams, dtype=logits.dtype, device=logits.device)


CONSTRAINTS: dict[str, Any] = {
    "sinkhorn": SinkhornConstraint,
    "permutation": PermutationConstraint,
    "kronecker": KroneckerConstraint,
    "orthogonal": OrthogonalConstraint,
    "identity": IdentityConstraint,
}
"""What keeps `res` on its manifold, by the values of `constraint`."""


def create_constraint(
    constraint: str, num_streams: int, sinkhorn_iters: int = 20, device: torch.device | str | None = None
) -> Constraint:
    """The constraint of this name.

    Raises:
        ValueError: unknown name, or a family that does not exist for `num_streams`.
    """
    check_choice("constraint", constraint, CONSTRAINTS)
    if constraint == "sinkhorn":
        return SinkhornConstraint(num_streams, sinkhorn_iters)
    if issubclass(CONSTRAINTS[constraint], FixedBasisConstraint):
        return CONSTRAINTS[constraint](num_streams, device)
    return CONSTRAINTS[constraint](num_streams)
