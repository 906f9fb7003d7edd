"""Distance of Sinkhorn-Knopp from doubly stochastic maps after a number of iterations, at the logits of a model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mhc_vision.analysis.measures.token_statistics import TokenQuantiles
from mhc_vision.kernels import sinkhorn_knopp
from mhc_vision.layers import ManifoldHyperConnection, named_connections
from mhc_vision.layers.constraints import SinkhornConstraint
from mhc_vision.models.instruments.gains import column_residual

ITERATIONS = (1, 2, 3, 5, 10, 20, 50)


def sinkhorn_iterations(model: nn.Module) -> int | None:
    """Iterations of the model's first Sinkhorn-constrained connection; None if it has none."""
    for connection in _sinkhorn_connections(model).values():
        return connection.constraint.num_iters
    return None


@contextmanager
def observe_sinkhorn_logits(model: nn.Module, observer: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `observer(branch, logits)` with logits (..., n, n) of each Sinkhorn-constrained `res` that the model makes.

    Branches are counted in the order in which they run, those with other constraints included.
    """
    handles = []
    for branch, connection in _sinkhorn_connections(model).items():
        n = connection.num_streams

        def observe(module: nn.Module, inputs: tuple[Tensor], branch: int = branch, n: int = n) -> None:
            observer(branch, inputs[0].detach().unflatten(-1, (n, n)))

        handles.append(connection.constraint.register_forward_pre_hook(observe))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class SinkhornResidual:
    """Collects the residual of the columns (the rows, which come last, are exact) for several numbers of iterations.

    Args:
        iterations: numbers of iterations to look at.
    """

    def __init__(self, iterations: Sequence[int] = ITERATIONS) -> None:
        self._iterations = tuple(iterations)
        self._residuals: dict[int, list[TokenQuantiles]] = {}

    def add(self, branch: int, logits: Tensor) -> None:
        """Take the logits (..., n, n) of one branch for one batch."""
        residuals = self._residuals.setdefault(branch, [TokenQuantiles() for _ in self._iterations])
        for num_iters, residual in zip(self._iterations, residuals, strict=True):
            residual.add(column_residual(sinkhorn_knopp(logits.double(), num_iters)))

    def result(self) -> dict[str, Any] | None:
        """None for a model without Sinkhorn-Knopp.

        Returns:
            `iterations`, `branches`, and `max` and `median` over tokens of the largest |log column sum|: one list a
            branch, one number an entry of `iterations`.
        """
        if not self._residuals:
            return None
        figures = {branch: [entry.result() for entry in entries] for branch, entries in self._residuals.items()}
        return {
            "iterations": list(self._iterations),
            "branches": list(figures),
            **{key: [[entry[key] for entry in row] for row in figures.values()] for key in ("max", "median")},
        }


def _sinkhorn_connections(model: nn.Module) -> dict[int, Any]:
    """By index of the branch."""
    return {
        branch: connection
        for branch, connection in enumerate(named_connections(model).values())
        if isinstance(connection, ManifoldHyperConnection) and isinstance(connection.constraint, SinkhornConstraint)
    }
