"""The report of one run: what its own records say, for a person to read."""

import importlib.util
import shlex
from pathlib import Path

from mhc_vision.atomic_files import replace_text
from mhc_vision.json_files import read_json_object
from mhc_vision.report.curves import plot_loss_curves
from mhc_vision.report.pages import Block, Code, Figure, Heading, Paragraph, Table, to_markdown
from mhc_vision.run_directory import LOSS_FIGURE, METRICS_LOG, REPORT, SUMMARY


def write_run_report(run_dir: Path) -> Path:
    """Write `report.md` and, where matplotlib is installed, `figures/loss.{png,svg}` into a run directory.

    Args:
        run_dir: Directory of a finished run, with `summary.json` and `metrics.jsonl`.

    Returns:
        The path of the report.

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
    title = f"{summary['name']}, {summary['connection'] or 'plain'}"
    if summary["num_streams"] > 1:
        title += f" with {summary['num_streams']} streams"
    versions = ", ".join(f"{package} {version}" for package, version in summary["versions"].items())
    said = f"{summary['steps']} steps, {summary['epochs']} epochs, {summary['wall_time_s']} s; {versions}."
    # summaries of earlier versions do not say it
    if (validated := summary.get("validated_at_step")) not in (None, summary["steps"]):
        said += f" The last validation was after step {validated}."
    blocks: list[Block] = [
        Heading(1, title),
        Table([{"metric": name, "last value": str(value)} for name, value in summary["metrics"].items()]),
        Table([{"parameters": name, "count": f"{count:,}"} for name, count in summary["params"].items()]),
        _loss_figure(log, run_dir),
        Paragraph(f"{said} Written from `summary.json` and `metrics.jsonl` of"),
        Code(shlex.join(summary["command"])),
    ]
    report = run_dir / REPORT
    replace_text(report, to_markdown(blocks, run_dir))
    return report


def _loss_figure(log: Path, run_dir: Path) -> Block:
    """The loss curve, drawn if it can be."""
    if importlib.util.find_spec("matplotlib") is None:
        return Paragraph("No figure: it needs matplotlib (`pip install 'mhc-vision[plots]'`).")
    if '"train/loss"' not in log.read_text(encoding="utf-8"):
        return Paragraph("No figure: no training loss was logged (`trainer.log_every_n_steps` is longer than the run).")
    png, svg = plot_loss_curves({run_dir.resolve().name: log}, run_dir / LOSS_FIGURE)
    return Figure(png, svg, "training loss")
