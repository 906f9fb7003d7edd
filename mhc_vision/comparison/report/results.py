"""Records of all runs of a matrix, by task, arm and seed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mhc_vision.comparison.plan.equal_time import StepTime, time_arm
from mhc_vision.comparison.plan.matrix import Matrix
from mhc_vision.comparison.report.statistics import first_step_reaching, mean_curve
from mhc_vision.comparison.run.directory import ComparisonDirectory, Failure
from mhc_vision.comparison.run.metrics import METRICS, Metric
from mhc_vision.comparison.run.records import Curve, RunRecord, read_record
from mhc_vision.comparison.run.step_times import StepTimes


@dataclass(frozen=True)
class Reached:
    """When an arm is as good as the baseline is at its end.

    Attributes:
        steps: Optimiser steps it took; `None` if it never was.
        of_steps: Steps of the baseline.
    """

    steps: int | None
    of_steps: int

    @property
    def speed_up(self) -> float | None:
        """Steps of the baseline over those it took."""
        return None if self.steps is None else self.of_steps / self.steps


@dataclass(frozen=True)
class TaskResults:
    """What the arms of a matrix reached on one task.

    Attributes:
        task: Its name.
        baseline: The arm that the others are measured against.
        seeds: All seeds of the matrix.
        records: Finished runs, by arm and seed; every arm is there.
        excluded: Arms that the matrix excludes from this task.
        failures: Failed runs by name.
        time_arms: Of each arm that has one, the arm that is the baseline with its time.
        step_times: What was measured before the runs, by arm; of a comparison at equal time only.
    """

    task: str
    baseline: str
    seeds: tuple[int, ...]
    records: Mapping[str, Mapping[int, RunRecord]]
    excluded: tuple[str, ...]
    failures: Mapping[str, Failure]
    time_arms: Mapping[str, str] = field(default_factory=dict)
    step_times: Mapping[str, StepTime] = field(default_factory=dict)

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms that are not excluded."""
        return tuple(arm for arm in self.records if arm not in self.excluded)

    @property
    def finished(self) -> list[RunRecord]:
        """Finished runs of all arms."""
        return [record for runs in self.records.values() for record in runs.values()]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of `METRICS` that any run has; the first is the task's main one."""
        known = {metric for record in self.finished for metric in record.metrics}
        return tuple(metric for metric in METRICS if metric in known)

    @property
    def curved_metrics(self) -> tuple[Metric, ...]:
        """Those that any run logged at more than one step; a probe, which takes none, logs each once."""
        long = {key for record in self.finished for key, curve in record.curves.items() if len(curve.steps) > 1}
        return tuple(metric for metric in METRICS if metric.key in long)

    def values(self, arm: str, figure: Callable[[RunRecord], float | None]) -> list[float]:
        """A figure of each finished run of an arm that has it, by seed."""
        figures = [figure(record) for _, record in sorted(self.records[arm].items())]
        return [value for value in figures if value is not None]

    def finals(self, arm: str, metric: Metric) -> list[float]:
        """Final values of a metric, as they are shown."""
        return self.values(arm, lambda record: record.value(metric))

    def pairs(
        self, arm: str, metric: Metric | None = None, against: str | None = None
    ) -> list[tuple[RunRecord, RunRecord]]:
        """Runs of an arm and of another for each seed that both have finished, with a metric that both have.

        `against` is the other arm, `None` for the baseline.
        """
        base = self.records[against or self.baseline]
        pairs = [(record, base[seed]) for seed, record in sorted(self.records[arm].items()) if seed in base]
        return [pair for pair in pairs if metric is None or all(metric in record.metrics for record in pair)]

    def reached_by_mean(self, arm: str, metric: Metric) -> Reached | None:
        """When the mean curve over paired seeds reaches the final value of the baseline's.

        `None` without pairs, or where that value is not finite: then there is nothing to reach.
        """
        pairs = self.pairs(arm, metric)
        if not pairs:
            return None
        mine = Curve(*mean_curve([record.curves[metric.key].pair for record, _ in pairs]))
        base = Curve(*mean_curve([record.curves[metric.key].pair for _, record in pairs]))
        return _reached(mine, base, metric) if math.isfinite(base.last) else None

    def reached_by_seed(self, arm: str, metric: Metric) -> list[Reached]:
        """When each run reaches the final value of the baseline with its seed."""
        pairs = self.pairs(arm, metric)
        return [_reached(record.curves[metric.key], base.curves[metric.key], metric) for record, base in pairs]


def read_results(matrix: Matrix, directory: ComparisonDirectory, times: StepTimes | None = None) -> list[TaskResults]:
    """Reads the records of all runs; `times` are those measured before them, if any were.

    Raises:
        ValueError: A run has neither finished nor failed, or its records are broken.
    """
    failures = {cell.name: failure for cell in matrix.cells if (failure := directory.failure(cell)) is not None}
    unfinished = [cell.name for cell in matrix.cells if cell.name not in failures and not directory.is_finished(cell)]
    if unfinished:
        shown = ", ".join(unfinished[:3]) + (", ..." if len(unfinished) > 3 else "")
        raise ValueError(
            f"--out: got {directory.path} without records of {len(unfinished)} of {len(matrix.cells)} runs ({shown}), "
            "expected all; run the comparison without --report-only"
        )
    results = []
    for task in matrix.tasks:
        records: dict[str, dict[int, RunRecord]] = {arm: {} for arm in matrix.arms}
        cells = [cell for cell in matrix.cells if cell.task == task]
        for cell in cells:
            if cell.name not in failures:
                records[cell.arm][cell.seed] = read_record(cell, directory.run_dir(cell))
        of_task = {cell.name: failures[cell.name] for cell in cells if cell.name in failures}
        excluded = matrix.excluded_arms(task)
        of_arms = {arm: time_arm(matrix.baseline, arm) for arm in matrix.equal_time.arms}
        time_arms = {arm: other for arm, other in of_arms.items() if not {arm, other} & set(excluded)}
        measured = (times or {}).get(task, {})
        results.append(
            TaskResults(task, matrix.baseline, matrix.seeds, records, excluded, of_task, time_arms, measured)
        )
    return results


def _reached(curve: Curve, base: Curve, metric: Metric) -> Reached:
    steps = first_step_reaching(curve.steps, curve.values, base.last, higher_is_better=metric.is_accuracy)
    return Reached(steps, base.steps[-1] + 1)
