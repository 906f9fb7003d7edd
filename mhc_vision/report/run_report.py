"""The report of one run: what its own records say, for a person to read."""

import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import replace_text
from mhc_vision.connection_text import connection_text
from mhc_vision.contribution import logged_contribution
from mhc_vision.json_files import read_json_object
from mhc_vision.metrics_log import read_metric
from mhc_vision.predictions import Predictions
from mhc_vision.report.curves import plot_seed_bands, smooth
from mhc_vision.report.pages import Block, Code, Figure, Heading, Paragraph, Table, to_html, to_markdown
from mhc_vision.report.prediction_blocks import prediction_blocks
from mhc_vision.run_directory import ACCURACY_FIGURE, LOSS_FIGURE, METRICS_LOG, PAGE, PREDICTIONS, REPORT, SUMMARY

_LOSSES = {"train/loss": "training", "val/loss": "validation"}
_ACCURACIES = {
    "val/top1": "top-1",
    "val/mean_per_class": "mean per class",
    "val/top5": "top-5",
    "val/mean_iou": "mean IoU",
    "val/mean_dice": "mean Dice",
    "val/pixel_accuracy": "pixel accuracy",
}


def write_run_report(run_dir: Path) -> Path:
    """Write `report.md`, `report.html` and, where matplotlib is installed, `figures/` into a run directory.

    Args:
        run_dir: Directory of a finished run, with `summary.json`, `metrics.jsonl` and, if its last evaluation had one
            label per image, `predictions.npz`.

    Returns:
        The path of `report.md`; `report.html`, which needs no other file, is beside it.

    Raises:
        ValueError: The records are missing or broken.
    """
    summary_file, log = run_dir / SUMMARY, run_dir / METRICS_LOG
    for record in (summary_file, log):
        if not record.is_file():
            raise ValueError(f"run_dir: got {run_dir} without {record.name}, expected the directory of a finished run")
    needed = (
        "name",
        "connection",
        "num_streams",
        "metrics",
        "params",
        "steps",
        "epochs",
        "wall_time_s",
        "versions",
        "command",
    )
    summary = read_json_object("run_dir", summary_file, needed)
    predictions = Predictions.load(run_dir / PREDICTIONS) if (run_dir / PREDICTIONS).is_file() else None
    # summaries of earlier versions know no constraint
    connection = connection_text(summary["connection"], summary["num_streams"], summary.get("constraint"))
    title = f"{summary['name']}, {connection}"
    versions = ", ".join(f"{package} {version}" for package, version in summary["versions"].items())
    said = f"{summary['steps']} steps, {summary['epochs']} epochs, {summary['wall_time_s']} s; {versions}."
    # summaries of earlier versions do not say it
    if (validated := summary.get("validated_at_step")) not in (None, summary["steps"]):
        said += f" The last validation was after step {validated}."
    blocks: list[Block] = [
        Heading(1, title),
        *_metric_table(summary["metrics"], evaluated=True),
        *_contribution(summary["metrics"]),
        *_curves(log, run_dir),
        *([] if predictions is None else prediction_blocks(predictions, run_dir)),
        Heading(2, "How it was made"),
        *_metric_table(summary["metrics"], evaluated=False),
        Table([{"parameters": name, "count": f"{count:,}"} for name, count in summary["params"].items()]),
        Paragraph(f"{said} Written from `summary.json` and `metrics.jsonl` of"),
        Code(shlex.join(summary["command"])),
    ]
    report = run_dir / REPORT
    replace_text(report, to_markdown(blocks, run_dir))
    replace_text(run_dir / PAGE, to_html(blocks))
    return report


def _metric_table(metrics: Mapping[str, Any], evaluated: bool) -> list[Block]:
    """What the run reached on its validation and test images, or everything else that it logged."""
    rows = [
        _metric_row(name, value) for name, value in metrics.items() if name.startswith(("val/", "test/")) == evaluated
    ]
    return [Table(rows)] if rows else []


def _contribution(metrics: Mapping[str, Any]) -> list[Block]:
    """What the connections contribute, in words; nothing of a plain model."""
    contribution = logged_contribution(metrics)
    if contribution is None:
        return []
    return [
        Paragraph(
            f"Validation loss with the maps set back to their start, minus validation loss: {contribution.figures} "
            f"(standard error over images): {contribution.words}."
        )
    ]


def _metric_row(name: str, value: Any) -> Mapping[str, str]:
    """Accuracies in percent; what is not finite is the text that the summary has."""
    figure = name.partition("/")[2]
    is_accuracy = f"val/{figure}" in _ACCURACIES or figure.startswith("iou/")
    if not isinstance(value, int | float):
        return {"metric": name, "last value": str(value)}
    return {"metric": name, "last value": f"{100 * value:.2f} %" if is_accuracy else f"{value:.6g}"}


def _curves(log: Path, run_dir: Path) -> list[Block]:
    """Losses of training and validation in one figure, accuracies in another; those that can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        return [Paragraph("No figure: it needs matplotlib (`pip install 'mhc-vision[plots]'`).")]
    text = log.read_text(encoding="utf-8")
    blocks: list[Block] = []
    losses, accuracies = (
        {name: read_metric(log, key) for key, name in names.items() if f'"{key}"' in text}
        for names in (_LOSSES, _ACCURACIES)
    )
    if "training" in losses:
        steps, values = losses["training"]
        # as the reports of comparisons do
        window = max(1, len(values) // 10)
        losses["training"] = steps, smooth(values, window)
        png, svg = plot_seed_bands(
            {name: [curve] for name, curve in losses.items()}, run_dir / LOSS_FIGURE, label="loss (nats)"
        )
        mean = f"; training: mean of {window} logged values" if window > 1 else ""
        blocks.append(Figure(png, svg, f"loss{mean}"))
    else:
        said = "No figure: no training loss was logged (`trainer.log_every_n_steps` is longer than the run)."
        blocks.append(Paragraph(said))
    if any(len(values) > 1 for _, values in accuracies.values()):
        curves = {name: [(steps, [100 * v for v in values])] for name, (steps, values) in accuracies.items()}
        png, svg = plot_seed_bands(curves, run_dir / ACCURACY_FIGURE, label="accuracy on validation images (%)")
        blocks.append(Figure(png, svg, "accuracy on validation images"))
    return blocks
