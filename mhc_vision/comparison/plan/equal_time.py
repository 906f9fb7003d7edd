"""Arms at equal time: the baseline once more, with as many steps as the time of another arm would have paid for."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mhc_vision.checks import check_number, nearest
from mhc_vision.comparison.plan.settings import check_mapping

if TYPE_CHECKING:
    from mhc_vision.comparison.plan.matrix import Cell, Matrix

SECONDS = 20.0


@dataclass(frozen=True)
class EqualTime:
    """What a matrix asks for under `equal_time`.

    Attributes:
        arms: Arms that get a baseline with their time; none where the matrix has no such key.
        seconds: To measure steps for, with each arm.
    """

    arms: tuple[str, ...] = ()
    seconds: float = SECONDS


@dataclass(frozen=True)
class StepTime:
    """What an optimiser step of an arm takes, measured beside the baseline's in one process.

    Attributes:
        ratio: Seconds of a step over those of the baseline's step: median over the rounds of the measurement.
        seconds: Median seconds of a step.
        baseline_seconds: The same of the baseline, in this measurement.
        rounds: How many steps of each were timed.
        baseline_steps: Optimiser steps of the baseline's run.
        baseline_validations: Validations of that run.
        accumulated: Batches of an optimiser step.
    """

    ratio: float
    seconds: float
    baseline_seconds: float
    rounds: int
    baseline_steps: int
    baseline_validations: int
    accumulated: int


def parse_equal_time(content: Any, arms: Mapping[str, Any], baseline: str, gpus: int) -> EqualTime:
    """The value of the key `equal_time`: a list of arms, or a mapping with `arms` and `seconds`.

    Raises:
        ValueError: Something else is there, an arm that is not in the matrix or is the baseline, a name that an arm at
            equal time would take from another, or runs on several GPUs, whose exchange is not measured.
    """
    entry = content if isinstance(content, dict) else {"arms": content}
    check_mapping("equal_time", entry, ("arms", "seconds"), required=("arms",))
    names = entry["arms"]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise ValueError(f"equal_time: got {names!r}, expected a list of arms, each once, such as [mhc]")
    others = [arm for arm in arms if arm != baseline]
    for name in names:
        if name not in others:
            hint = nearest(str(name), others)
            raise ValueError(f"equal_time: got {name!r}, expected arms beside {baseline}: {', '.join(others)}{hint}")
        if (taken := time_arm(baseline, name)) in arms:
            raise ValueError(f"equal_time: got {name!r} beside an arm {taken!r}, expected that name free; rename it")
    seconds = entry.get("seconds", SECONDS)
    check_number("equal_time.seconds", seconds, at_least=0)
    if gpus > 1:
        raise ValueError(f"equal_time: got gpus: {gpus}, expected at most 1; steps are measured on one device")
    return EqualTime(tuple(names), float(seconds))


def time_arm(baseline: str, arm: str) -> str:
    """Name of the baseline with the time of an arm."""
    return f"{baseline}-time-{arm}"


def with_equal_time(matrix: "Matrix", times: Mapping[str, Mapping[str, StepTime]]) -> "Matrix":
    """The matrix with its arms at equal time, each behind the seed's other runs; a matrix without any as it is.

    Args:
        matrix: As it was read.
        times: What was measured, by task and arm: of each task that has the baseline and an arm of `equal_time`.
    """
    cells: list[Cell] = []
    for seed in matrix.seeds:
        of_seed = [cell for cell in matrix.cells if cell.seed == seed]
        bases = {cell.task: cell for cell in of_seed if cell.arm == matrix.baseline}
        cells += of_seed
        for arm in matrix.equal_time.arms:
            for cell in of_seed:
                if cell.arm == arm and (base := bases.get(cell.task)):
                    length = run_length(times[cell.task][arm])
                    options = {key: value for key, value in base.options.items() if key not in length}
                    name = time_arm(matrix.baseline, arm)
                    cells.append(dataclasses.replace(base, arm=name, options={**options, **length}))
    arms = (*matrix.arms, *(time_arm(matrix.baseline, arm) for arm in matrix.equal_time.arms))
    return dataclasses.replace(matrix, arms=arms, cells=tuple(cells))


def run_length(time: StepTime) -> dict[str, Any]:
    """Options that make a run of the baseline `ratio` times as long.

    It validates at even distances and at its very end: Lightning does so only where the steps are a multiple of the
    interval, so the number of validations is the one, from as many as the baseline has to twice as many, whose
    multiple comes closest to the steps asked for.
    """
    steps = max(1, round(time.ratio * time.baseline_steps))
    fewest = min(max(1, time.baseline_validations), steps)
    counts = range(fewest, min(2 * fewest, steps) + 1)
    validations = min(counts, key=lambda count: abs(steps - count * round(steps / count)))
    interval = round(steps / validations)
    return {
        "trainer.max_epochs": -1,
        "trainer.max_steps": validations * interval,
        # counted in batches
        "trainer.val_check_interval": interval * time.accumulated,
        "trainer.check_val_every_n_epoch": None,
    }
