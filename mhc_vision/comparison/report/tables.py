"""Tables of a report, made of the records of the runs."""

import math
from collections.abc import Sequence

from mhc_vision.comparison.plan.matrix import Matrix
from mhc_vision.comparison.report.results import Reached, TaskResults
from mhc_vision.comparison.report.statistics import paired_difference, spread
from mhc_vision.comparison.run.metrics import Metric
from mhc_vision.comparison.run.records import MAPS, RunRecord
from mhc_vision.report.travel import UNMOVED

Rows = list[dict[str, str]]
NOTHING = "-"


def final_table(results: TaskResults) -> Rows:
    """Mean ± standard deviation over seeds of what the runs of each arm reached at their end."""
    rows = []
    for arm in results.arms:
        num_runs = len(results.records[arm])
        row = {"arm": arm, "runs": f"{num_runs} of {len(results.seeds)}"}
        if diverged := sum(bool(record.not_finite) for record in results.records[arm].values()):
            row["runs"] += f", {diverged} diverged"
        for metric in results.metrics:
            values = results.finals(arm, metric)
            row[metric.label] = counted(_spread(values, metric.digits), len(values), num_runs)
        rows.append(row)
    return rows


def difference_table(results: TaskResults) -> Rows:
    """Difference of each arm to the baseline, seed by seed, with its 95 % interval; no rows without a baseline."""
    rows = []
    for arm in _measured(results):
        if arm == results.baseline:
            continue
        num_pairs = len(results.pairs(arm))
        row = {"arm - " + results.baseline: arm, "pairs": str(num_pairs)}
        for metric in results.metrics:
            pairs = results.pairs(arm, metric)
            row[metric.difference_label] = counted(_difference(pairs, metric), len(pairs), num_pairs)
        rows.append(row)
    return rows


def convergence_table(results: TaskResults) -> Rows:
    """Steps that each arm needs to be as good as the baseline is at its end, and the baseline's over these.

    There are no rows without a baseline, nor of runs that took no steps, nor of the baseline at equal time, which has
    another number of steps.
    """
    rows = []
    arms = [arm for arm in _measured(results) if arm not in results.time_arms.values()]
    for metric in results.curved_metrics:
        for arm in arms:
            mean = results.reached_by_mean(arm, metric)
            seeds = results.reached_by_seed(arm, metric)
            rows.append(
                {
                    "final value of": metric.name,
                    "arm": arm,
                    "steps": NOTHING if mean is None else f"{mean.steps or 'not reached'} of {mean.of_steps}",
                    "speed-up": NOTHING if mean is None else _speed_up(mean),
                    "speed-up, seed by seed": ", ".join(map(_speed_up, seeds)) or NOTHING,
                }
            )
    return rows


def cost_table(results: TaskResults) -> Rows:
    """What each arm costs: size, arithmetic, speed and memory."""
    base = results.values(results.baseline, _parameters)
    all_train = all(_trainable(record) == _parameters(record) for record in results.finished)
    rows = []
    for arm in results.arms:
        records = list(results.records[arm].values())
        row = dict.fromkeys(
            (
                "parameters",
                *(() if all_train else ("trainable",)),
                "extra (%)",
                "GMACs",
                "images/s",
                "step time (x)",
                "peak memory (GiB)",
            ),
            NOTHING,
        )
        if records:
            parameters = _parameters(records[0])
            row["parameters"] = f"{parameters:,.0f}"
            if not all_train:
                row["trainable"] = f"{_trainable(records[0]):,.0f}"
            row["extra (%)"] = f"{100 * (parameters / base[0] - 1):.2f}" if base else NOTHING
            row["GMACs"] = f"{records[0].summary['gmacs']:.4g}"
            row["images/s"] = _known_spread(records, "images_per_s")
            row["step time (x)"] = _step_time_ratio(results, arm)
            row["peak memory (GiB)"] = _known_spread(records, "peak_memory_gib")
        rows.append({"arm": arm, **row})
    return rows


def maps_table(results: TaskResults) -> Rows:
    """What the connections of each arm contribute, how far their maps have come, what they do with streams."""
    rows = []
    for arm, runs in results.records.items():
        records = [record for record in runs.values() if record.maps]
        if records:
            columns = {key: _spread([record.maps[key] for record in records if key in record.maps], 4) for key in MAPS}
            rows.append({"arm": arm, **columns})
    # records of earlier versions lack some
    known = [key for key in MAPS if any(row[key] != NOTHING for row in rows)]
    return [{"arm": row["arm"], **{key: row[key] for key in known}} for row in rows]


def plain_arms(results: TaskResults) -> list[str]:
    """Arms that lose nothing, in any run, when their maps are set back to their start."""
    return [arm for arm, runs in results.records.items() if runs and all(map(_is_plain, runs.values()))]


def _is_plain(record: RunRecord) -> bool:
    return record.contribution is not None and record.contribution.is_plain


def unmoved_arms(results: TaskResults) -> list[str]:
    """Arms with maps that have all stayed within `UNMOVED` of their start, in every run."""
    return [arm for arm, runs in results.records.items() if runs and all(map(_has_stayed, runs.values()))]


def _has_stayed(record: RunRecord) -> bool:
    # a distance that is NaN, which max() may pass over, is not below the limit
    distances = [value for key, value in record.maps.items() if key.startswith("travel/")]
    return bool(distances) and all(value < UNMOVED for value in distances)


def failure_table(results: TaskResults) -> Rows:
    """The runs that failed, with how they ended."""
    return [
        {"run": name, "exit status": str(failure.status), "last line": failure.lines[-1] if failure.lines else ""}
        for name, failure in results.failures.items()
    ]


def divergence_table(results: TaskResults) -> Rows:
    """The runs that came to their end with figures that are not finite."""
    return [
        {"run": record.cell.name, "not finite": ", ".join(record.not_finite)}
        for record in results.finished
        if record.not_finite
    ]


def settings_table(matrix: Matrix) -> Rows:
    """Files and options of each arm on each task."""
    rows = []
    for task in matrix.tasks:
        for arm in matrix.arms:
            cell = next((cell for cell in matrix.cells if (cell.task, cell.arm) == (task, arm)), None)
            if cell is None:
                rows.append({"task": task, "arm": arm, "files": "excluded", "options": NOTHING})
                continue
            options = ", ".join(f"{key}={value}" for key, value in cell.options.items())
            rows.append({"task": task, "arm": arm, "files": ", ".join(cell.configs), "options": options or NOTHING})
    return rows


def counted(text: str, count: int, expected: int) -> str:
    """A figure, and of how many runs it is where these are not all."""
    return text if count in (0, expected) else f"{text} ({count} of {expected})"


def not_finite_text(values: Sequence[float]) -> str | None:
    """What stands in place of figures of these values where some are NaN or infinite; `None` where none is."""
    lost = sum(not math.isfinite(value) for value in values)
    return f"not finite in {lost} of {len(values)}" if lost else None


def _measured(results: TaskResults) -> tuple[str, ...]:
    """Arms that have a baseline to be measured against, with that itself."""
    return () if results.baseline in results.excluded else results.arms


def _parameters(record: RunRecord) -> float:
    return float(record.summary["params"]["total"])


def _trainable(record: RunRecord) -> float:
    # all of them in records from before there was fine-tuning
    return float(record.summary["params"].get("trainable", _parameters(record)))


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return NOTHING
    if text := not_finite_text(values):
        return text
    figures = spread(values)
    std = NOTHING if figures.std is None else f"{figures.std:.{digits}f}"
    return f"{figures.mean:.{digits}f} ± {std}"


def _known_spread(records: list[RunRecord], key: str) -> str:
    values = [float(record.summary[key]) for record in records if record.summary[key] is not None]
    digits = max(0, 2 - int(math.log10(max(values)))) if values and max(values) > 0 else 0
    return _spread(values, digits)


def _difference(pairs: list[tuple[RunRecord, RunRecord]], metric: Metric) -> str:
    if not pairs:
        return NOTHING
    mine, base = ([metric.scale * record.finals[metric.key] for record in side] for side in zip(*pairs, strict=True))
    if text := not_finite_text([a - b for a, b in zip(mine, base, strict=True)]):
        return text
    difference = paired_difference(mine, base)
    mean, digits = difference.mean, metric.digits
    if difference.half_width is None:
        return f"{mean:+.{digits}f} [{NOTHING}]"
    low, high = mean - difference.half_width, mean + difference.half_width
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _speed_up(reached: Reached) -> str:
    return NOTHING if reached.speed_up is None else f"{reached.speed_up:.2f}x"


def _step_time_ratio(results: TaskResults, arm: str) -> str:
    """Mean over seeds of the baseline's images/s over the arm's."""
    rates = [(mine.summary["images_per_s"], base.summary["images_per_s"]) for mine, base in results.pairs(arm)]
    ratios = [base / mine for mine, base in rates if mine and base]
    return _spread(ratios, 2)
