"""Statistics over seeds: spread, paired differences, decisions by Holm, and steps needed to reach a value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import nctdtrinc, stdtr, stdtrit

_ALPHA = 0.05
POWER = 0.8
"""How likely a study should find what is there; the customary figure."""


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
    return PairedDifference(differences.mean, _half_width(differences, 1 - _ALPHA), differences.count)


@dataclass(frozen=True)
class Decision:
    """What Holm's procedure says of one of several paired differences.

    Attributes:
        mean: Of the differences.
        half_width: Half the width of the interval at `level`.
        detectable: The smallest true difference that had a chance of 80 % to be called different at `level`, if the
            differences spread as these do.
        level: Confidence level at which Holm tests this difference. The interval at this level holds 0 exactly where
            the procedure does not reject.
        p_value: Of the two-sided paired t test, by itself.
        adjusted: The p-value corrected for the number of differences (Holm 1979).
        is_different: Whether `adjusted` is at most 5 %.
    """

    mean: float
    half_width: float
    detectable: float
    level: float
    p_value: float
    adjusted: float
    is_different: bool

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.mean - self.half_width, self.mean + self.half_width


def holm_decisions(differences: Sequence[Sequence[float]]) -> list[Decision]:
    """Paired t tests of several differences against 0; the chance to call any different that is not is at most 5 %.

    The k-th smallest of m p-values is multiplied by m - k + 1 (Holm 1979), and none is below the one before it. Its
    interval has the level 1 - 5 % / (m - k + 1) that this step tests at; once a step does not reject, the later ones
    are tested at the level of that step.

    Args:
        differences: Of each arm to the baseline, seed by seed: at least two, not all equal.

    Raises:
        ValueError: If there are fewer than two differences, or all are equal: then there is no spread to test with.
    """
    tests = [(spread(values), _paired_p_value(values)) for values in differences]
    order = sorted(range(len(tests)), key=lambda index: tests[index][1])
    decisions: dict[int, Decision] = {}
    adjusted, factor, rejects = 0.0, len(tests), True
    for rank, index in enumerate(order):
        figures, p_value = tests[index]
        adjusted = max(adjusted, min(1.0, (len(tests) - rank) * p_value))
        # the first step that does not reject ends the procedure
        factor = len(tests) - rank if rejects else factor
        rejects = rejects and adjusted <= _ALPHA
        level = 1 - _ALPHA / factor
        half_width = _half_width(figures, level)
        assert figures.std is not None
        detectable = detectable_difference(figures.std, figures.count, level)
        decisions[index] = Decision(figures.mean, half_width, detectable, level, p_value, adjusted, rejects)
    return [decisions[index] for index in range(len(tests))]


def detectable_difference(std: float, count: int, level: float, power: float = POWER) -> float:
    """The smallest true mean of paired differences that a two-sided t test finds with this probability.

    The statistic of a true mean d has the noncentral t distribution with `count - 1` degrees of freedom and the
    noncentrality d * sqrt(count) / std (Cohen, Statistical Power Analysis, 1988, chapter 2). That it passes the
    critical value on the wrong side is left out, which is less than 1 in 10,000 at a power of a half and more.

    Args:
        std: Standard deviation of the differences.
        count: Pairs, at least 2.
        level: Confidence level that the test decides by, `Decision.level` say.
        power: The probability, from 0.5 and below 1.
    """
    critical = float(stdtrit(count - 1, 0.5 + level / 2))
    return float(nctdtrinc(count - 1, 1 - power, critical)) * std / math.sqrt(count)


def has_spread(values: Sequence[float]) -> bool:
    """Whether there are at least two values that differ, beyond rounding."""
    return len(values) > 1 and not math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-12)


def _paired_p_value(values: Sequence[float]) -> float:
    if not has_spread(values):
        raise ValueError(f"differences: got {list(values)}, expected at least two that differ")
    figures = spread(values)
    assert figures.std is not None
    statistic = figures.mean / (figures.std / math.sqrt(figures.count))
    return 2 * float(stdtr(figures.count - 1, -abs(statistic)))


def _half_width(figures: Spread, level: float) -> float:
    assert figures.std is not None
    quantile = float(stdtrit(figures.count - 1, 0.5 + level / 2))
    return quantile * figures.std / math.sqrt(figures.count)


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
