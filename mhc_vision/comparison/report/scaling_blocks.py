"""What becomes of gains with larger models and longer training, in a report: figures and a table."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mhc_vision.comparison.plan.matrix import Matrix
from mhc_vision.comparison.report.drawing import NO_FIGURES, can_draw
from mhc_vision.comparison.report.results import TaskResults
from mhc_vision.comparison.report.scaling import Gains, Scale, over_compute, over_size, scaling_table, task_scales
from mhc_vision.comparison.report.scaling_figure import plot_scaling
from mhc_vision.report.pages import Block, Figure, Heading, Paragraph, Table
from mhc_vision.run_directory import FIGURES

_SCALING = (
    "Gain of each arm, its {metric} minus that of `{baseline}`, over the size of the model and over compute, on tasks "
    "of the same data. Size, steps and training FLOPs are those of `{baseline}`, so that all arms of a task stand at "
    "one place; an arm's own price is in the table of its task. Mean over seeds with its 95 % interval (Student's t), "
    "which is corrected for neither arms nor tasks."
)
_OVERS = (
    ("size", over_size, "parameters of {baseline}"),
    ("compute", over_compute, "training FLOPs of {baseline}"),
)
_FAMILIES: tuple[tuple[str, str, Callable[[Scale], Gains]], ...] = (
    ("", "", lambda scale: scale.gains),
    ("-equal-time", " at equal time", lambda scale: scale.time_gains),
)


def scaling_blocks(matrix: Matrix, results: Sequence[TaskResults], directory: Path) -> list[Block]:
    """A section on scaling; nothing unless tasks of the same data differ in size alone, or in length alone."""
    scales = task_scales(matrix, results)
    drawn: list[Block] = []
    has_lines = False
    for suffix, where, gains in _FAMILIES:
        for name, lines_over, over in _OVERS:
            lines = lines_over(scales, gains)
            has_lines = has_lines or bool(lines)
            if lines and can_draw():
                axis = over.format(baseline=matrix.baseline)
                label = f"gain in {scales[0].metric.name}{where} (points)"
                destination = directory / FIGURES / f"scaling-{name}{suffix}"
                png, svg = plot_scaling(lines, destination, label=label, over=axis)
                drawn.append(Figure(png, svg, f"Gain of each arm{where} over {axis}, with 95 % intervals"))
    if not has_lines:
        return []
    text = _SCALING.format(metric=scales[0].metric.name, baseline=matrix.baseline)
    figures = drawn or [Paragraph(NO_FIGURES)]
    return [Heading(2, "Scaling"), *figures, Paragraph(text), Table(scaling_table(scales))]
