"""The table of all tasks of a comparison."""

from mhc_vision.comparison.plan.matrix import FINETUNE, Matrix, task_name
from mhc_vision.comparison.report.results import TaskResults
from mhc_vision.comparison.report.tables import NOTHING, Rows, counted, not_finite_text

FAILED = "failed"


def overview_table(matrix: Matrix, results: list[TaskResults]) -> Rows:
    """A row for each task: of each arm the mean over seeds of the task's main metric, and the lowest and highest."""
    by_name = {task.task: task for task in results}
    return [{**names, **_figures(by_name[task])} for task, names in _tasks(matrix)]


def _tasks(matrix: Matrix) -> list[tuple[str, dict[str, str]]]:
    """Names of tasks, dataset by dataset, and what they consist of."""
    if not matrix.datasets:
        return [(recipe, {"task": recipe}) for recipe in matrix.recipes]
    kind = "method" if matrix.command == FINETUNE else "recipe"
    return [
        (task_name(recipe, dataset), {"dataset": dataset, kind: recipe})
        for dataset in matrix.datasets
        for recipe in matrix.recipes
    ]


def _figures(results: TaskResults) -> dict[str, str]:
    metric = results.metrics[0] if results.metrics else None
    row = {"metric (%)": metric.key if metric else NOTHING}
    for arm, runs in results.records.items():
        if arm in results.excluded:
            row[arm] = NOTHING
        elif metric is None or not runs:
            row[arm] = FAILED
        else:
            row[arm] = _mean_and_range(results.finals(arm, metric), metric.digits, len(results.seeds))
    return row


def _mean_and_range(values: list[float], digits: int, expected: int) -> str:
    if not values:
        return "not logged"
    if lost := not_finite_text(values):
        return counted(lost, len(values), expected)
    text = f"{sum(values) / len(values):.{digits}f}"
    if len(values) > 1:
        text += f" [{min(values):.{digits}f}, {max(values):.{digits}f}]"
    return counted(text, len(values), expected)
