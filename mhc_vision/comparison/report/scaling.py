"""Gains over model size and over compute, from the tasks of one matrix that differ in nothing else."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mhc_vision.comparison.plan.matrix import Matrix
from mhc_vision.comparison.plan.settings import Settings
from mhc_vision.comparison.report.price import step_prices
from mhc_vision.comparison.report.results import TaskResults
from mhc_vision.comparison.report.statistics import PairedDifference, paired_difference
from mhc_vision.comparison.report.tables import NOTHING, Rows
from mhc_vision.comparison.run.metrics import Metric

Gains = Mapping[str, PairedDifference]
"""Differences in points, by arm."""


@dataclass(frozen=True)
class Scale:
    """How large a task is, by the runs of its baseline.

    Attributes:
        task: Its name.
        data: What identifies its data: tasks on other data do not scale with it.
        parameters: Of the baseline's model.
        gmacs: Of one image.
        steps: Optimiser steps.
        flops: Training FLOPs of a run; `None` where not known.
        metric: The task's main metric.
        gains: Of each arm, the difference to the baseline in points with its 95 % interval; those that have one.
        time_gains: The same beside the baseline with the arm's time.
    """

    task: str
    data: str
    parameters: int
    gmacs: float
    steps: int
    flops: float | None
    metric: Metric
    gains: Gains
    time_gains: Gains


@dataclass(frozen=True)
class Line:
    """Gains of an arm on tasks of one data that share what the line is named by, from the smallest to the largest."""

    name: str
    places: tuple[float, ...]
    gains: tuple[PairedDifference, ...]


def task_scales(matrix: Matrix, results: Sequence[TaskResults]) -> list[Scale]:
    """The tasks whose baseline has been trained; a probe takes no steps."""
    scales = []
    for task in results:
        base = next(iter(task.records[task.baseline].values()), None)
        if base is None or not base.summary["steps"]:
            continue
        price = step_prices(task)[task.baseline].flops
        left_out = {task.baseline, *task.time_arms.values()}
        metric = task.metrics[0]
        scales.append(
            Scale(
                task=task.task,
                data=_data(matrix, task.task),
                parameters=base.summary["params"]["total"],
                gmacs=base.summary["gmacs"],
                steps=base.summary["steps"],
                flops=None if price is None else price * base.summary["steps"],
                metric=metric,
                gains=_gains(task, metric, {arm: task.baseline for arm in task.arms if arm not in left_out}),
                time_gains=_gains(task, metric, task.time_arms),
            )
        )
    return scales


def over_size(scales: Sequence[Scale], gains: Callable[[Scale], Gains]) -> dict[str, list[Line]]:
    """By arm, a line over the parameters of the baseline for each number of steps; only those of several sizes."""
    return _lines(scales, gains, lambda scale: (scale.steps, f"{scale.steps:,} steps"), lambda scale: scale.parameters)


def over_compute(scales: Sequence[Scale], gains: Callable[[Scale], Gains]) -> dict[str, list[Line]]:
    """By arm, a line over the baseline's training FLOPs for each size; only those of several lengths."""
    known = [scale for scale in scales if scale.flops is not None]
    return _lines(
        known,
        gains,
        lambda scale: (scale.parameters, f"{scale.parameters:,} parameters"),
        lambda scale: scale.flops or math.nan,
    )


def scaling_table(scales: Sequence[Scale]) -> Rows:
    """A row for each task, from the smallest model and the shortest run on: what it is, and the gain of each arm."""
    arms = list(dict.fromkeys(arm for scale in scales for arm in scale.gains))
    timed = list(dict.fromkeys(arm for scale in scales for arm in scale.time_gains))
    rows = []
    for scale in sorted(scales, key=lambda scale: (scale.parameters, scale.steps)):
        row = {
            "task": scale.task,
            "parameters": f"{scale.parameters:,}",
            "GMACs": f"{scale.gmacs:.4g}",
            "steps": f"{scale.steps:,}",
            "training FLOPs": NOTHING if scale.flops is None else f"{scale.flops:.3g}",
        }
        row |= {arm: _text(scale.gains.get(arm), scale.metric) for arm in arms}
        row |= {f"{arm} at equal time": _text(scale.time_gains.get(arm), scale.metric) for arm in timed}
        rows.append(row)
    return rows


def _lines(
    scales: Sequence[Scale],
    gains: Callable[[Scale], Gains],
    shared: Callable[[Scale], tuple[float, str]],
    place: Callable[[Scale], float],
) -> dict[str, list[Line]]:
    lines: dict[str, list[Line]] = {}
    for arm in dict.fromkeys(arm for scale in scales for arm in gains(scale)):
        groups: dict[tuple[str, str, float, str], list[Scale]] = {}
        for scale in scales:
            if arm in gains(scale):
                groups.setdefault((scale.data, scale.metric.key, *shared(scale)), []).append(scale)
        several_data = len({key[0] for key in groups}) > 1
        for key, group in sorted(groups.items(), key=lambda item: (item[0][2], item[0][0])):
            # of tasks of one size and length, which differ in something else, none is the larger one
            if len({place(scale) for scale in group}) == len(group) > 1:
                group.sort(key=place)
                name = f"{key[3]} ({group[0].task}, ...)" if several_data else key[3]
                places, values = tuple(map(place, group)), tuple(gains(scale)[arm] for scale in group)
                lines.setdefault(arm, []).append(Line(name, places, values))
    return lines


def _gains(task: TaskResults, metric: Metric, others: Mapping[str, str]) -> dict[str, PairedDifference]:
    gains = {}
    for arm, other in others.items():
        pairs = task.pairs(arm, metric, other)
        values = [(mine.value(metric), base.value(metric)) for mine, base in pairs]
        known = [(mine, base) for mine, base in values if mine is not None and base is not None]
        if known and all(math.isfinite(value) for pair in known for value in pair):
            gains[arm] = paired_difference(*map(list, zip(*known, strict=True)))
    return gains


def _data(matrix: Matrix, task: str) -> str:
    """Settings of the data, as text."""
    cell = next(cell for cell in matrix.cells if (cell.task, cell.arm) == (task, matrix.baseline))
    settings = Settings(cell.configs, cell.options).effective()
    return json.dumps({key: value for key, value in settings.items() if key.startswith("data")}, sort_keys=True)


def _text(gain: PairedDifference | None, metric: Metric) -> str:
    if gain is None:
        return NOTHING
    digits = metric.digits
    if gain.half_width is None:
        return f"{gain.mean:+.{digits}f}"
    low, high = gain.mean - gain.half_width, gain.mean + gain.half_width
    return f"{gain.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
