"""Statistics over seeds: spread, paired differences with their interval, and steps needed to reach a value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of one figure over seeds; `std` is `None` for one seed."""

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences and half the width of its 95 % interval; `half_width` is `None` for one pair."""

    mean: float
    half_width: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("values: got none, expected at least one")
    numbers = torch.tensor(values, dtype=torch.float64)
    return Spread(float(numbers.mean()), float(numbers.std()) if len(values) > 1 else None, len(values))


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """Mean of `values - baseline`, pair by pair, with Student's 95 % interval.

    Raises:
        ValueError: If there are no values, or not as many of both.
    """
    if len(values) != len(baseline):
        raise ValueError(f"pairs: got {len(values)} values and {len(baseline)} of the baseline, expected as many")
    differences = spread([mine - other for mine, other in zip(values, baseline, strict=True)])
    if differences.std is None:
        return PairedDifference(differences.mean, None, 1)
    count = differences.count
    half_width = float(stdtrit(count - 1, 0.975)) * differences.std / math.sqrt(count)
    return PairedDifference(differences.mean, half_width, count)


def first_step_reaching(
    steps: Sequence[int], values: Sequence[float], target: float, higher_is_better: bool
) -> int | None:
    """Optimiser steps after which a logged curve is first as good as `target`; `None` if it never is.

    Args:
        steps: Step of each logged value, counted from 0 as logs do: the value at s is that after s + 1 steps.
        values: The curve.
        target: What is to be reached.
        higher_is_better: As for an accuracy; a loss is to go down.
    """
    for step, value in zip(steps, values, strict=True):
        if value >= target if higher_is_better else value <= target:
            return step + 1
    return None


def mean_curve(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[float]]:
    """Mean of curves, each (steps, values), at the steps that all of them have."""
    tables = [dict(zip(steps, values, strict=True)) for steps, values in curves]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    means = torch.tensor([[table[step] for step in common] for table in tables], dtype=torch.float64).mean(0)
    return common, means.tolist()
