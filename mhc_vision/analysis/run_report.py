"""The report of one run: what its own records say, for a person to read."""

import importlib.util
import shlex
from pathlib import Path

from mhc_vision.analysis.curves import plot_loss_curves
from mhc_vision.analysis.tables import markdown_table
from mhc_vision.atomic_files import replace_text
from mhc_vision.json_files import read_json_object

_REPORT = """# {title}

{metrics}
{params}
{figure}

{steps} steps, {epochs} epochs, {wall_time_s} s; {versions}. Written from `summary.json` and `metrics.jsonl` of

    {command}
"""


def write_run_report(run_dir: Path) -> Path:
    """Write `report.md` and, where matplotlib is installed, `figures/loss.{png,svg}` into a run directory.

    Args:
        run_dir: Directory of a finished run, with `summary.json` and `metrics.jsonl`.

    Returns:
        The path of the report.

    Raises:
        ValueError: The records are missing or broken.
    """
    summary_file, log = run_dir / "summary.json", run_dir / "metrics.jsonl"
    for record in (summary_file, log):
        if not record.is_file():
            raise ValueError(f"run_dir: {run_dir} has no {record.name}, expected the directory of a finished run")
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
    report = run_dir / "report.md"
    text = _REPORT.format(
        title=title,
        metrics=markdown_table([{"metric": name, "last value": value} for name, value in summary["metrics"].items()]),
        params=markdown_table([{"parameters": name, "count": f"{n:,}"} for name, n in summary["params"].items()]),
        figure=_loss_figure(log, run_dir),
        versions=", ".join(f"{package} {version}" for package, version in summary["versions"].items()),
        command=shlex.join(summary["command"]),
        **{key: summary[key] for key in ("steps", "epochs", "wall_time_s")},
    )
    replace_text(report, text)
    return report


def _loss_figure(log: Path, run_dir: Path) -> str:
    """The Markdown of the loss curve, drawn if it can be."""
    if importlib.util.find_spec("matplotlib") is None:
        return "No figure: it needs matplotlib (`pip install 'mhc_vision[plots]'`)."
    if '"train/loss"' not in log.read_text(encoding="utf-8"):
        return "No figure: no training loss was logged (`trainer.log_every_n_steps` is longer than the run)."
    png, _ = plot_loss_curves({run_dir.resolve().name: log}, run_dir / "figures" / "loss")
    return f"![training loss]({png.relative_to(run_dir)})"
