"""Records of all runs of a matrix, by task, arm and seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mhc_vision.comparison.directory import ComparisonDirectory, Failure
from mhc_vision.comparison.matrix import Matrix
from mhc_vision.comparison.records import Curve, RunRecord, read_record
from mhc_vision.comparison.statistics import first_step_reaching, mean_curve


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
        failures: Failed runs by name.
    """

    task: str
    baseline: str
    seeds: tuple[int, ...]
    records: Mapping[str, Mapping[int, RunRecord]]
    failures: Mapping[str, Failure]

    def values(self, arm: str, figure: Callable[[RunRecord], float]) -> list[float]:
        """A figure of each finished run of an arm, by seed."""
        return [figure(record) for _, record in sorted(self.records[arm].items())]

    def pairs(self, arm: str) -> list[tuple[RunRecord, RunRecord]]:
        """Runs of an arm and of the baseline for each seed that both have finished."""
        base = self.records[self.baseline]
        return [(record, base[seed]) for seed, record in sorted(self.records[arm].items()) if seed in base]

    def reached_by_mean(self, arm: str, key: str, higher_is_better: bool) -> Reached | None:
        """When the mean curve over paired seeds reaches the final value of the baseline's; `None` without pairs."""
        pairs = self.pairs(arm)
        if not pairs:
            return None
        mine = Curve(*mean_curve([record.curves[key].pair for record, _ in pairs]))
        base = Curve(*mean_curve([record.curves[key].pair for _, record in pairs]))
        return _reached(mine, base, higher_is_better)

    def reached_by_seed(self, arm: str, key: str, higher_is_better: bool) -> list[Reached]:
        """When each run reaches the final value of the baseline with its seed."""
        return [_reached(record.curves[key], base.curves[key], higher_is_better) for record, base in self.pairs(arm)]


def read_results(matrix: Matrix, directory: ComparisonDirectory) -> list[TaskResults]:
    """Reads the records of all runs.

    Raises:
        ValueError: A run has neither finished nor failed, or its records are broken.
    """
    failures = {cell.name: failure for cell in matrix.cells if (failure := directory.failure(cell)) is not None}
    unfinished = [cell.name for cell in matrix.cells if cell.name not in failures and not directory.is_finished(cell)]
    if unfinished:
        shown = ", ".join(unfinished[:3]) + (", ..." if len(unfinished) > 3 else "")
        raise ValueError(
            f"{directory.path} has no records of {len(unfinished)} of {len(matrix.cells)} runs ({shown}): "
            "run the comparison, without --report-only"
        )
    results = []
    for task in matrix.tasks:
        records: dict[str, dict[int, RunRecord]] = {arm: {} for arm in matrix.arms}
        cells = [cell for cell in matrix.cells if cell.task == task]
        for cell in cells:
            if cell.name not in failures:
                records[cell.arm][cell.seed] = read_record(cell, directory.run_dir(cell))
        of_task = {cell.name: failures[cell.name] for cell in cells if cell.name in failures}
        results.append(TaskResults(task, matrix.baseline, matrix.seeds, records, of_task))
    return results


def _reached(curve: Curve, base: Curve, higher_is_better: bool) -> Reached:
    steps = first_step_reaching(curve.steps, curve.values, base.last, higher_is_better)
    return Reached(steps, base.steps[-1] + 1)
