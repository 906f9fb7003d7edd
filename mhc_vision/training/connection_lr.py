"""How fast the connections learn: the factor that `connection_lr_scale: auto` stands for."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from mhc_vision.checks import check_number
from mhc_vision.layers import named_connections

AUTO = "auto"
BUDGET = 2.5
"""Learning rates of the connections summed over a run, as `auto` sets them: as far as a static logit can travel."""
LOWEST, HIGHEST = 1.0, 30.0
"""Limits of the factor that `auto` stands for."""


def check_connection_lr_scale(scale: float | str) -> None:
    """Raise ValueError unless `scale` is a positive number or `auto`."""
    if scale != AUTO:
        if isinstance(scale, str):
            raise ValueError(f"connection_lr_scale: got {scale!r}, expected a number above 0 or 'auto'")
        check_number("connection_lr_scale", scale, above=0)


def connection_lr_scale(scale: float | str, lr_sum: float, model: nn.Module) -> float:
    """The factor on the connections' learning rate.

    A step of Adam moves a parameter by about its learning rate. The sum of learning rates over a run is therefore the
    farthest that a bias can travel, and maps start some units of logits away from where they do something. `auto` gives
    every run the same distance, `BUDGET`, by the factor `BUDGET / lr_sum`: more in a short run or at a low rate, less
    in a long one. It stays between `LOWEST` and `HIGHEST`. What MUDD and attention residuals add learns at the model's
    rate, as their papers have it.

    Args:
        scale: A number, which is returned as it is, or `auto`.
        lr_sum: The model's learning rates, summed over the steps of the run.
        model: Whose connections learn.
    """
    if isinstance(scale, str):
        if not named_connections(model):
            return 1.0
        return min(max(BUDGET / lr_sum, LOWEST), HIGHEST) if lr_sum > 0 else HIGHEST
    return scale


def connection_learning_rates(optimizers: Iterable[Optimizer], key: str = "lr") -> dict[str, float]:
    """Learning rates of the connections' groups: `static` and `dynamic`, those there are.

    Args:
        optimizers: Over the groups of `param_groups`.
        key: `lr` for the rate of the next step, `initial_lr` for the peak.
    """
    return {
        kind: group[key]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for kind in ("static", "dynamic")
        # a gated read-out and DHC may have two dynamic groups: of those, the last
        if group.get("name", "").startswith(f"connection_{kind}")
    }
