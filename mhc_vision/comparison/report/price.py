"""Quality over its price: seconds of training steps and training FLOPs, not steps alone."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mhc_vision.comparison.report.results import TaskResults
from mhc_vision.comparison.report.tables import NOTHING, Rows
from mhc_vision.comparison.run.metrics import Metric
from mhc_vision.comparison.run.records import RunRecord

# a multiply-accumulate is two operations, and the backward pass takes twice the forward's
_FLOPS_PER_MAC = 2 * 3


@dataclass(frozen=True)
class Price:
    """What one optimiser step of an arm costs.

    Attributes:
        seconds: Of the step; `None` where neither measured before the runs nor logged by them.
        flops: Training FLOPs: 2 x 3 x multiply-accumulates of the model x images of the step; `None` in records of
            versions that did not note the images.
    """

    seconds: float | None
    flops: float | None


def step_prices(results: TaskResults) -> dict[str, Price]:
    """The price of a step of each arm that has runs.

    Seconds are those that were measured side by side before the runs, else those that follow from the runs' logged
    images per second, as the median over seeds.
    """
    prices = {}
    for arm in results.arms:
        records = [record for record in results.records[arm].values() if record.summary["steps"]]
        if not records:
            continue
        images = [record.summary.get("images_per_step") for record in records]
        flops = None if images[0] is None else _FLOPS_PER_MAC * 1e9 * records[0].summary["gmacs"] * images[0]
        prices[arm] = Price(_measured_seconds(results, arm) or _logged_seconds(records), flops)
    return prices


def over_price(
    results: TaskResults, metric: Metric, price_of: Callable[[Price], float | None]
) -> dict[str, list[tuple[list[float], Sequence[float]]]]:
    """Curves of a metric over a price, by arm and seed; none at all where an arm with a curve has no such price.

    Every arm is there, so that it keeps its colour.
    """
    prices = step_prices(results)
    curves: dict[str, list[tuple[list[float], Sequence[float]]]] = {}
    for arm, runs in results.records.items():
        curves[arm] = []
        for run in runs.values():
            if metric.key not in run.curves:
                continue
            price = price_of(prices[arm]) if arm in prices else None
            if price is None:
                return {}
            steps, values = run.curves[metric.key].scaled(metric.scale)
            # logs count from 0: a value is that after a step more
            curves[arm].append(([price * (step + 1) for step in steps], values))
    return curves


def price_table(results: TaskResults) -> Rows:
    """A row for each arm with its price, of a step and of a run, and the main metric; none where nothing is known."""
    prices = step_prices(results)
    if not results.metrics or all(price == Price(None, None) for price in prices.values()):
        return []
    metric = results.metrics[0]
    base = prices.get(results.baseline, Price(None, None)).seconds
    rows = []
    for arm, price in prices.items():
        steps = statistics.median(record.summary["steps"] for record in results.records[arm].values())
        finals = results.finals(arm, metric)
        rows.append(
            {
                "arm": arm,
                "step (ms)": _text(price.seconds, 1e3),
                "step time (x)": NOTHING if not base or not price.seconds else f"{price.seconds / base:.3f}",
                "steps": f"{steps:.0f}",
                "seconds": _text(price.seconds, steps),
                "training FLOPs": NOTHING if price.flops is None else f"{price.flops * steps:.3g}",
                metric.label: f"{sum(finals) / len(finals):.{metric.digits}f}" if finals else NOTHING,
            }
        )
    return rows


def _measured_seconds(results: TaskResults, arm: str) -> float | None:
    """As measured before the runs, with the baseline's step as one of the measurements has it."""
    if not results.step_times:
        return None
    base = next(iter(results.step_times.values())).baseline_seconds
    if arm == results.baseline or arm in results.time_arms.values():
        return base
    return results.step_times[arm].ratio * base if arm in results.step_times else None


def _logged_seconds(records: Sequence[RunRecord]) -> float | None:
    seconds = [
        record.summary["images_per_step"] / record.summary["images_per_s"]
        for record in records
        if record.summary.get("images_per_step") and record.summary["images_per_s"]
    ]
    return statistics.median(seconds) if seconds else None


def _text(value: float | None, factor: float) -> str:
    return NOTHING if value is None else f"{factor * value:.3g}"
