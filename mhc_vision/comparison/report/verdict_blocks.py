"""The beginning of a report: the answer, in figures, sentences and a table for each task."""

from collections.abc import Sequence
from pathlib import Path

from mhc_vision.comparison.report.conclusions import conclusions
from mhc_vision.comparison.report.drawing import NO_FIGURES, can_draw
from mhc_vision.comparison.report.forest import plot_forest
from mhc_vision.comparison.report.results import TaskResults
from mhc_vision.comparison.report.verdicts import Verdict, equal_time_verdicts, task_verdicts, verdict_table
from mhc_vision.report.pages import Block, Figure, Heading, Paragraph, Table
from mhc_vision.run_directory import FIGURES

_VERDICTS = (
    "Each arm minus `{baseline}`, seed by seed, as runs of one seed see the same data in the same order, in the main "
    "metric of the task. Ahead and behind are what a paired t test finds after Holm's correction for the number of "
    "arms of the task: the chance that any arm is called different that is not is at most 5 %. Each interval has the "
    "level at which Holm tests its arm, so it holds 0 exactly where the arm cannot be told apart; `p` is that of the "
    "arm by itself. `could show` is what the seeds could have found: the smallest true difference with a chance of "
    "80 % to be told apart at that level, if differences spread as these do. Tasks are not corrected for each other."
)
_EQUAL_TIME = (
    " At equal time an arm is measured against `{baseline}` with as many more steps as the arm's step takes longer. "
    "These differences are corrected among themselves, as those at equal steps are."
)
_FOREST = (
    "{task}: difference of each arm to {baseline}{where}. Dot: mean over seeds, filled where the arm is told apart; "
    "line: its interval; ticks: seeds."
)


def verdict_blocks(results: Sequence[TaskResults], directory: Path) -> list[Block]:
    """For each task that has a baseline to compare with: a figure, a sentence on each arm, a table of verdicts."""
    tasks = [task for task in results if task_verdicts(task)]
    if not tasks:
        return []
    baseline = tasks[0].baseline
    figures: list[Block] = []
    tables: list[Block] = []
    for task in tasks:
        at_steps, at_time = task_verdicts(task), equal_time_verdicts(task)
        if can_draw():
            figures.append(_forest(task, at_steps, directory, "verdict", ""))
            if at_time:
                figures.append(_forest(task, at_time, directory, "verdict-equal-time", " at equal time"))
        name = at_steps[0].metric.name
        tables.append(Heading(3, f"{task.task}: {name}"))
        if any(verdict.decision for verdict in (*at_steps, *at_time)):
            tables += [Paragraph(sentence) for sentence in conclusions(at_steps, at_time)]
        tables.append(Table(verdict_table(at_steps)))
        if at_time:
            tables += [Heading(3, f"{task.task}: {name} at equal time"), Table(verdict_table(at_time))]
    text = _VERDICTS + (_EQUAL_TIME if any(task.time_arms for task in tasks) else "")
    drawn = figures or [Paragraph(NO_FIGURES)]
    return [Heading(2, "Verdict"), *drawn, Paragraph(text.format(baseline=baseline)), *tables]


def _forest(task: TaskResults, verdicts: Sequence[Verdict], directory: Path, name: str, where: str) -> Figure:
    against = f"{task.baseline}{where}"
    png, svg = plot_forest(verdicts, against, directory / FIGURES / f"{task.task}-{name}")
    return Figure(png, svg, _FOREST.format(task=task.task, baseline=task.baseline, where=where))
