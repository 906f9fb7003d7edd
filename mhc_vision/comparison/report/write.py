"""The report of a comparison: `report.md`, `report.html` and `figures/`, read from the records of its runs."""

from collections.abc import Sequence
from pathlib import Path

from mhc_vision.atomic_files import replace_text
from mhc_vision.comparison.plan.matrix import Matrix
from mhc_vision.comparison.report.drawing import NO_FIGURES, band_figure, can_draw
from mhc_vision.comparison.report.overview import overview_table
from mhc_vision.comparison.report.price_blocks import price_blocks
from mhc_vision.comparison.report.results import TaskResults, read_results
from mhc_vision.comparison.report.scaling_blocks import scaling_blocks
from mhc_vision.comparison.report.tables import (
    convergence_table,
    cost_table,
    difference_table,
    divergence_table,
    failure_table,
    final_table,
    maps_table,
    plain_arms,
    settings_table,
    unmoved_arms,
)
from mhc_vision.comparison.report.verdict_blocks import verdict_blocks
from mhc_vision.comparison.run.directory import ComparisonDirectory
from mhc_vision.comparison.run.metrics import TRAINING_LOSS, validation_accuracy
from mhc_vision.comparison.run.records import RunRecord
from mhc_vision.comparison.run.step_times import StepTimes
from mhc_vision.contribution import NEGLIGIBLE
from mhc_vision.report.pages import Block, Code, Heading, Paragraph, Table, to_html, to_markdown
from mhc_vision.report.travel import UNMOVED
from mhc_vision.run_directory import PAGE, REPORT

_OVERVIEW = (
    "Of each arm the mean over seeds and, in brackets, the lowest and the highest, in percent. The metric is taken on "
    "test images where the data has its own, else on validation images, and is the mean of the classes' accuracies "
    "where the dataset is compared by that. A combination that the matrix excludes is `-`; where runs failed, it says "
    "how many are left."
)
_FINAL = (
    "Values at the end of training, not the best ones: accuracy and loss of the last validation, and the training loss "
    "as the mean of the last tenth of the logged losses. Mean ± standard deviation over seeds."
)
_TEST = " Test figures are taken once, of the final weights."
_EXCLUDED = "Excluded by the matrix: {arms}."
_NO_BASELINE = " Without `{baseline}` there is nothing that the others are measured against."
_DIFFERENCE = (
    "Arm minus `{baseline}`, seed by seed, as runs of one seed see the same data in the same order: mean and, in "
    "brackets, its 95 % interval (Student's t). These intervals are corrected neither for the "
    "number of arms nor for that of metrics, as the verdicts above are."
)
_DIVERGED = (
    "These runs went on to their end although numbers were no longer finite. Images whose logits are not finite count "
    "as wrong in every accuracy; a mean over seeds of which one is not finite is not taken."
)
_CONVERGENCE = (
    "Does an arm converge faster? `steps` counts the optimiser steps after which its mean curve is first as good as "
    "that of `{baseline}` at the end, of all steps of `{baseline}`; `speed-up` is the second number over the first: "
    "2.00x means half the steps, - that it never gets there, or that the baseline's is not finite. Read it against the "
    "row of `{baseline}`, whose own curve may pass its final value before the end: up to that, a speed-up is chance. "
    "It is only as fine as the log (validations per run: {points})."
)
_COST = (
    "GMACs of one image; images/s in training is the median of the logged rates without the first tenth, and the step "
    "time is relative to that of `{baseline}`, seed by seed. Memory is {memory}. Measured on {devices}."
)
_MAPS = (
    "What the connections were at the last look of a run: the validation loss with their maps set back to their start, "
    "minus the validation loss (`val/contribution`); how far the entries of their maps had come from their start (mean "
    "absolute change); of the streams at the read-out the effective rank (1 for copies), the share of the largest in "
    "their squared norms, and how much of a difference between them survives the stack; and the largest Amax gains of "
    "products of `res` (1 for a plain residual)."
)
_PLAIN = (
    " Setting the maps of {arms} back to their start cost no validation loss in any run (less than {limit}, or within "
    "2 standard errors of 0): there, the model is a plain one at a higher price."
)
_UNMOVED = (
    " The maps of {arms} stayed within {limit} of their start in every run: there, the model is a plain residual at a "
    "higher price."
)
_NOISE = " The runs shared the CPU with each other and with whatever else it did: speeds are rough."
_ONE_SEED = (
    "There is one seed: no interval exists, as nothing says how far chance moves these figures. Deviations and "
    "intervals are -, and no arm can be called better."
)


def write_report(matrix: Matrix, directory: ComparisonDirectory, command: str, times: StepTimes | None = None) -> Path:
    """Writes the report of a comparison whose runs have all finished or failed.

    Args:
        matrix: The comparison.
        directory: Where its runs are, and the report goes.
        command: The command line that repeats it.
        times: Step times that were measured before the runs; of a comparison at equal time.

    Returns:
        The path of `report.md`; `report.html`, which needs no other file, is beside it.

    Raises:
        ValueError: Records are missing or broken, or no run has finished.
    """
    results = read_results(matrix, directory, times)
    records = [record for task in results for record in task.finished]
    blocks: list[Block] = [Heading(1, f"Comparison: {matrix.name}"), Paragraph(_summary(matrix, records))]
    if len(matrix.seeds) == 1:
        blocks.append(Paragraph(_ONE_SEED))
    blocks += verdict_blocks(results, directory.path)
    if len(results) > 1:
        blocks += [Heading(2, "Results"), Paragraph(_OVERVIEW), Table(overview_table(matrix, results))]
        blocks += scaling_blocks(matrix, results, directory.path)
    for task in results:
        blocks += _task_blocks(task, directory.path)
    blocks += [Heading(2, "How it was made"), Paragraph(_versions(records)), Code(command)]
    blocks.append(Paragraph("Files and options of each run, the options on top of the files:"))
    blocks.append(Table(settings_table(matrix)))
    report = directory.path / REPORT
    replace_text(report, to_markdown(blocks, directory.path))
    replace_text(directory.path / PAGE, to_html(blocks))
    return report


def _task_blocks(results: TaskResults, directory: Path) -> list[Block]:
    blocks: list[Block] = [Heading(2, results.task)]
    if results.excluded:
        blocks.append(Paragraph(_excluded_text(results)))
    if results.failures:
        blocks += [Heading(3, "Failed runs"), Table(failure_table(results))]
        for name, failure in results.failures.items():
            blocks += [Paragraph(f"Last lines of `{name}`:"), Code("\n".join(failure.lines) or "(none)")]
    records = results.finished
    if not records:
        return [*blocks, Paragraph("No run has finished.")]
    if diverged := divergence_table(results):
        blocks += [Heading(3, "Runs that diverged"), Paragraph(_DIVERGED), Table(diverged)]
    final = _FINAL + ("" if all(metric.has_curve for metric in results.metrics) else _TEST)
    blocks += [Heading(3, "Final values"), Paragraph(final), Table(final_table(results))]
    if differences := difference_table(results):
        text = _DIFFERENCE.format(baseline=results.baseline)
        blocks += [Heading(3, "Difference to the baseline"), Paragraph(text), Table(differences)]
    if convergence := convergence_table(results):
        points = max(len(record.curves[validation_accuracy(record.curves).key].steps) for record in records)
        text = _CONVERGENCE.format(baseline=results.baseline, points=points)
        blocks += [Heading(3, "Steps to the baseline's final values"), Paragraph(text), Table(convergence)]
    if maps := maps_table(results):
        blocks += [Heading(3, "Maps"), Paragraph(_maps_text(results)), Table(maps)]
    blocks += [Heading(3, "Cost"), Paragraph(_cost_text(results, records)), Table(cost_table(results))]
    blocks += price_blocks(results, directory)
    if figures := _figures(results, directory):
        blocks += [Heading(3, "Curves"), *figures]
    return blocks


def _excluded_text(results: TaskResults) -> str:
    text = _EXCLUDED.format(arms=", ".join(f"`{arm}`" for arm in results.excluded))
    return text + (_NO_BASELINE.format(baseline=results.baseline) if results.baseline in results.excluded else "")


def _maps_text(results: TaskResults) -> str:
    unmoved = [f"`{arm}`" for arm in unmoved_arms(results)]
    plain = [f"`{arm}`" for arm in plain_arms(results)]
    text = _MAPS + (_PLAIN.format(arms=", ".join(plain), limit=NEGLIGIBLE) if plain else "")
    return text + (_UNMOVED.format(arms=", ".join(unmoved), limit=UNMOVED) if unmoved else "")


def _figures(results: TaskResults, directory: Path) -> list[Block]:
    if not results.curved_metrics:
        return []
    if not can_draw():
        return [Paragraph(NO_FIGURES)]
    blocks: list[Block] = []
    for metric in results.curved_metrics:
        # every arm is there, so that it keeps its colour
        curves = {
            arm: [run.curves[metric.key].scaled(metric.scale) for run in runs.values() if metric.key in run.curves]
            for arm, runs in results.records.items()
        }
        caption = f"{results.task}: {metric.label}, mean over seeds, band from lowest to highest"
        blocks.append(band_figure(results.task, directory, metric.key, curves, metric.axis_label, caption))
    gaps = {arm: [_gap(mine, base) for mine, base in results.pairs(arm, TRAINING_LOSS)] for arm in results.records}
    # the baseline's colour is kept for it, without a curve
    gaps[results.baseline] = []
    if any(gaps.values()):
        caption = f"{results.task}: training loss minus that of {results.baseline}, seed by seed"
        label = "difference of the training loss (nats)"
        blocks.append(band_figure(results.task, directory, "train/loss-gap", gaps, label, caption, zero_line=True))
    return blocks


def _gap(mine: RunRecord, base: RunRecord) -> tuple[list[int], list[float]]:
    of_base = dict(zip(*base.curves[TRAINING_LOSS.key].pair, strict=True))
    of_mine = mine.curves[TRAINING_LOSS.key]
    common = [(step, value) for step, value in zip(*of_mine.pair, strict=True) if step in of_base]
    return [step for step, _ in common], [value - of_base[step] for step, value in common]


def _summary(matrix: Matrix, records: Sequence[RunRecord]) -> str:
    failed = len(matrix.cells) - len(records)
    state = f", of which {failed} failed" if failed else ""
    return (
        f"{len(matrix.cells)} runs{state}. Tasks: {', '.join(matrix.tasks)}. Arms: {', '.join(matrix.arms)}, with "
        f"`{matrix.baseline}` as the baseline. Seeds: {', '.join(map(str, matrix.seeds))}."
    )


def _versions(records: Sequence[RunRecord]) -> str:
    versions = {", ".join(f"{name} {version}" for name, version in run.summary["versions"].items()) for run in records}
    text = "; ".join(sorted(versions)) or "no run has finished"
    return f"Everything above is read from `summary.json` and `metrics.jsonl` of the runs ({text})."


def _cost_text(results: TaskResults, records: Sequence[RunRecord]) -> str:
    devices = sorted({record.summary["device"] for record in records})
    on_cpu = "cpu" in devices
    memory = "the most that the process had in RAM" if on_cpu else "the most that tensors took on a GPU"
    text = _COST.format(baseline=results.baseline, memory=memory, devices=", ".join(devices))
    return text + (_NOISE if on_cpu else "")
