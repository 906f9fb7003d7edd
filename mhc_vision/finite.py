"""What a number that is none counts for: the one rule for logits, features and weights, for every part of the library.

`argmax` and `topk` take NaN for the largest number there is, so that a model whose logits are all NaN "finds" class 0
in every image and has that class's share as its accuracy. Therefore a row of logits with an entry that is not finite is
wrong, whatever its label; where no labels say what is right, it is an error, as are such features and weights.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_NUM_NAMED = 3


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows of (N, ...) have no entry that is NaN or infinite: (N,), bool."""
    return rows.isfinite().flatten(1).all(1)


def right_rows(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Which rows have their label among their k largest logits; none that is not finite has.

    Args:
        logits: (N, num_classes).
        labels: (N,), int64.
        k: At most `num_classes`.

    Returns:
        (N,), bool.
    """
    found = logits.argmax(1) == labels if k == 1 else (logits.topk(k, dim=1).indices == labels.unsqueeze(1)).any(1)
    return found & finite_rows(logits)


def check_finite_rows(argument: str, rows: Tensor, what: str) -> None:
    """Raise ValueError if rows of (N, ...) are not finite; it says how many.

    Args:
        argument: What the error calls them.
        rows: The rows.
        what: What each of them belongs to, in the plural: `training images`.
    """
    count = len(rows) - int(finite_rows(rows).sum())
    if count:
        raise ValueError(
            f"{argument}: got NaN or infinity for {count} of {len(rows)} {what}, expected finite numbers: the model "
            "has diverged, or the images are not finite"
        )


def not_finite(weights: nn.Module | Mapping[str, Tensor]) -> list[str]:
    """Names of the weights, persistent buffers included, with an entry that is NaN or infinite."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    floating = {name: value for name, value in state.items() if value.is_floating_point() and not value.is_meta}
    # of a sharded model each process looks at its own part
    parts = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in floating.items()}
    return [name for name, value in parts.items() if not value.isfinite().all()]


def check_finite_weights(argument: str, source: str, weights: nn.Module | Mapping[str, Tensor]) -> None:
    """Raise ValueError if weights are not finite; it names them.

    Args:
        argument: What the error calls the model that they are of.
        source: Where they come from.
        weights: A module, or tensors by name.
    """
    if names := not_finite(weights):
        raise ValueError(
            f"{argument}: {source} has NaN or infinity in {named(names)}, expected finite weights: it has diverged in "
            "training; take an earlier checkpoint"
        )


def named(names: list[str]) -> str:
    """How many weights, and the first of their names."""
    shown = ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
    return f"{len(names)} weights ({shown})" if len(names) > 1 else f"the weight {shown}"
