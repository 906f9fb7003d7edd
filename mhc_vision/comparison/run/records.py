"""Reads what a finished run has recorded: summary, curves and final values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhc_vision.comparison.plan.matrix import Cell
from mhc_vision.comparison.run.metrics import METRICS, TRAINING_LOSS, Metric, validation_accuracy
from mhc_vision.contribution import Contribution, logged_contribution
from mhc_vision.json_files import read_json_object
from mhc_vision.metrics_log import read_metric
from mhc_vision.report.curves import smooth
from mhc_vision.run_directory import METRICS_LOG, SUMMARY

MAPS = (
    *("val/contribution", "travel/pre", "travel/post", "travel/res"),
    *("streams/effective_rank", "streams/dominant_share", "streams/memory"),
    *("gain/composite_forward", "gain/composite_backward"),
)

_NEEDED = (
    "steps", "epochs", "seed", "params", "gmacs", "images_per_s", "peak_memory_gib", "device", "versions"
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A logged metric: steps as the log counts them, from 0, and the values there."""

    steps: Sequence[int]
    values: Sequence[float]

    @property
    def pair(self) -> tuple[Sequence[int], Sequence[float]]:
        """Steps and values."""
        return self.steps, self.values

    def scaled(self, factor: float) -> tuple[Sequence[int], Sequence[float]]:
        """Steps, and values times a factor."""
        return self.steps, [factor * value for value in self.values]

    @property
    def last(self) -> float:
        """The final value."""
        return self.values[-1]


@dataclass(frozen=True)
class RunRecord:
    """Records of one finished run.

    Attributes:
        cell: The run.
        summary: Its `summary.json`.
        curves: Logged metrics by key, the training loss smoothed; those of `METRICS` that it logged.
        finals: Final values by key; those of `METRICS` that it has.
        maps: The last figures of its connections that were logged, by the names of `MAPS`; those there are.
    """

    cell: Cell
    summary: Mapping[str, Any]
    curves: Mapping[str, Curve]
    finals: Mapping[str, float]
    maps: Mapping[str, float]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of `METRICS` that it has."""
        return tuple(metric for metric in METRICS if metric.key in self.finals)

    @property
    def not_finite(self) -> tuple[str, ...]:
        """What is NaN or infinite of it, as in a run that went on after it had diverged."""
        lost = [key for key, value in self.finals.items() if not math.isfinite(value)]
        reached = self.summary.get("metrics", {})
        counts = {stage: int(reached.get(f"{stage}/not_finite", 0)) for stage in ("val", "test")}
        return (*lost, *(f"{count} images of {stage}" for stage, count in counts.items() if count))

    @property
    def contribution(self) -> Contribution | None:
        """What its connections contribute; `None` where it has not been measured."""
        return logged_contribution(self.summary.get("metrics", {}))

    def value(self, metric: Metric) -> float | None:
        """The final value of a metric as it is shown, accuracies in percent; `None` where it has none."""
        return metric.scale * self.finals[metric.key] if metric.key in self.finals else None


def read_record(cell: Cell, run_dir: Path) -> RunRecord:
    """Reads the records of a finished run.

    The training loss is smoothed by a trailing mean over a tenth of its logged values. Every run has validated, so
    its accuracy is needed; other metrics may be missing: a probe has no training loss, many datasets no test images.

    Raises:
        ValueError: A record is missing, broken, or of another run.
    """
    for name in (SUMMARY, METRICS_LOG):
        if not (run_dir / name).is_file():
            raise ValueError(f"{run_dir}: got no {name}, expected the records of a finished run")
    path = run_dir / SUMMARY
    summary = read_json_object("summary", path)
    if missing := [key for key in _NEEDED if key not in summary]:
        raise ValueError(f"{path}: got no {', '.join(missing)}, expected the summary of a run of this version")
    if summary["seed"] != cell.seed:
        raise ValueError(f"{path}: got seed {summary['seed']}, expected seed {cell.seed}")
    accuracy = validation_accuracy(summary.get("metrics", {})).key
    curves = {accuracy: Curve(*read_metric(run_dir / METRICS_LOG, accuracy))}
    curves |= _logged(run_dir / METRICS_LOG, [metric.key for metric in METRICS if metric.has_curve])
    if loss := curves.get(TRAINING_LOSS.key):
        window = max(1, len(loss.values) // 10)
        curves[TRAINING_LOSS.key] = Curve(loss.steps, smooth(list(loss.values), window))
    reached = summary.get("metrics", {})
    finals = {metric.key: float(reached[metric.key]) for metric in METRICS if metric.key in reached}
    # the same but for the training loss, which the summary does not smooth
    finals |= {key: curve.last for key, curve in curves.items()}
    # plain models log nothing of maps, nor did short runs of earlier versions
    maps = {key: curve.last for key, curve in _logged(run_dir / METRICS_LOG, MAPS).items()}
    return RunRecord(cell, summary, curves, finals, maps)


def _logged(log: Path, keys: Sequence[str]) -> dict[str, Curve]:
    """The curves of those of the keys that a log has."""
    text = log.read_text(encoding="utf-8")
    return {key: Curve(*read_metric(log, key)) for key in keys if f'"{key}"' in text}
