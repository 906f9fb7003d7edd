"""Verdict on each arm of a task: whether it can be told apart from the baseline, and by how much."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mhc_vision.comparison.report.results import TaskResults
from mhc_vision.comparison.report.statistics import Decision, has_spread, holm_decisions
from mhc_vision.comparison.report.tables import NOTHING, Rows, not_finite_text
from mhc_vision.comparison.run.metrics import Metric

EQUAL = "cannot be told apart"


@dataclass(frozen=True)
class Verdict:
    """What the runs of an arm say of it beside the baseline, by the main metric of a task.

    Attributes:
        arm: Its name.
        metric: An accuracy.
        differences: Arm minus baseline, in points, of each seed that both have finished.
        decision: Of Holm's procedure over the arms of the task; `None` where there is nothing to test with.
    """

    arm: str
    metric: Metric
    differences: tuple[float, ...]
    decision: Decision | None

    @property
    def mean(self) -> float:
        """Of the differences; NaN where there are none, or one is not finite."""
        return sum(self.differences) / len(self.differences) if self.differences else math.nan

    @property
    def words(self) -> str:
        """The verdict in words."""
        if not self.differences:
            return "no seed that both have finished"
        if text := not_finite_text(self.differences):
            return text
        if self.decision is None:
            if len(self.differences) == 1:
                return f"{_points(self.mean)} with one seed: no interval exists"
            return f"{_points(self.mean)} in every seed: no spread, so no interval"
        low, high = self.decision.interval
        if not self.decision.is_different:
            return f"{EQUAL}: between {_side(low)} and {_side(high)}"
        near, far = sorted((abs(low), abs(high)))
        # one digit says enough, unless it makes zero of the near end
        digits = 1 if near >= 0.1 else self.metric.digits
        return f"{'ahead' if low > 0 else 'behind'} by {near:.{digits}f} to {far:.{digits}f} points"


def task_verdicts(results: TaskResults) -> list[Verdict]:
    """One verdict for each arm but the baseline, Holm-corrected for their number; none without a baseline or runs.

    Arms that are the baseline with the time of another are left out: `equal_time_verdicts` is about them.
    """
    left_out = {results.baseline, *results.time_arms.values()}
    return _family(results, {arm: results.baseline for arm in results.arms if arm not in left_out})


def equal_time_verdicts(results: TaskResults) -> list[Verdict]:
    """One verdict for each arm beside the baseline with its time, Holm-corrected for their number."""
    return _family(results, results.time_arms)


def _family(results: TaskResults, others: Mapping[str, str]) -> list[Verdict]:
    """Verdicts on arms beside other arms, corrected together."""
    if results.baseline in results.excluded or not results.metrics:
        return []
    metric = results.metrics[0]
    differences = {arm: _differences(results, arm, metric, other) for arm, other in others.items()}
    tested = [arm for arm, values in differences.items() if all(map(math.isfinite, values)) and has_spread(values)]
    decisions = dict(zip(tested, holm_decisions([differences[arm] for arm in tested]), strict=True))
    return [Verdict(arm, metric, values, decisions.get(arm)) for arm, values in differences.items()]


def verdict_table(verdicts: list[Verdict]) -> Rows:
    """A row for each verdict: difference, interval, p-values, words."""
    rows = []
    for verdict in verdicts:
        decision, mean = verdict.decision, verdict.mean
        digits = verdict.metric.digits
        low, high = decision.interval if decision else (math.nan, math.nan)
        rows.append(
            {
                "arm": verdict.arm,
                "verdict": verdict.words,
                "difference (points)": f"{mean:+.{digits}f}" if math.isfinite(mean) else NOTHING,
                "interval": f"[{low:+.{digits}f}, {high:+.{digits}f}]" if decision else NOTHING,
                "level (%)": f"{100 * decision.level:.1f}" if decision else NOTHING,
                "p": _p_text(decision.p_value) if decision else NOTHING,
                "p, Holm": _p_text(decision.adjusted) if decision else NOTHING,
                "could show (points)": f"{decision.detectable:.{digits}f}" if decision else NOTHING,
                "seeds": str(len(verdict.differences)),
            }
        )
    return rows


def _differences(results: TaskResults, arm: str, metric: Metric, other: str) -> tuple[float, ...]:
    pairs = results.pairs(arm, metric, other)
    return tuple(metric.scale * (mine.finals[metric.key] - base.finals[metric.key]) for mine, base in pairs)


def _side(points: float) -> str:
    return f"{abs(points):.1f} {'ahead' if points > 0 else 'behind'}"


def _points(mean: float) -> str:
    return "no difference" if abs(mean) < 0.005 else f"{abs(mean):.2f} points {'ahead' if mean > 0 else 'behind'}"


def _p_text(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
