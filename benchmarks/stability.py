"""From which learning rate on each connection diverges, read from the runs of `configs/compare/stability.yaml`.

    mhc-vision compare configs/compare/stability.yaml --out runs/stability --set data.root=CIFAR10
    python benchmarks/stability.py runs/stability

A run has diverged if a training loss is not finite, or if the mean loss of its last tenth is not below chance, the log
of the number of classes. The first table has the highest learning rate up to which every run is stable; its figures are
those of that run. Gains are the largest Amax gains of products of maps that were logged.
"""

import argparse
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.metrics_log import read_metric
from mhc_vision.report.markdown import markdown_table

ARM = re.compile(r"(?P<connection>.+)-lr(?P<lr>[0-9.e+-]+)")


@dataclass(frozen=True)
class StabilityRun:
    """What one run of the matrix came to.

    Attributes:
        depth: Name of the recipe, which says how many branches there are.
        connection: Of the model.
        lr: Peak learning rate.
        last_loss: Mean training loss of the last tenth of the steps.
        grad_norm: Largest gradient norm after the first tenth.
        spikes: Loss spikes.
        forward_gain: Largest composite forward gain; `None` for a plain model.
        backward_gain: The same backward.
        diverged: Whether it did.
    """

    depth: str
    connection: str
    lr: float
    last_loss: float
    grad_norm: float | None
    spikes: int
    forward_gain: float | None
    backward_gain: float | None
    diverged: bool


def read_runs(directory: Path) -> Iterator[StabilityRun]:
    """The finished runs below a directory of `mhc-vision compare`.

    Raises:
        ValueError: If there are none, or runs that have not finished: it would look as if they had not been tried.
    """
    summaries = sorted(directory.glob("*/*/seed*/summary.json"))
    finished = {summary.parent for summary in summaries}
    if unfinished := sorted(run_dir for run_dir in directory.glob("*/*/seed*") if run_dir not in finished):
        raise ValueError(
            f"directory: got {len(unfinished)} runs without summary.json, such as {unfinished[0]}, expected "
            "finished ones, which a run that diverges comes to with StopWhenDiverged's patience of null"
        )
    if not summaries:
        raise ValueError(
            f"directory: got {directory} without finished runs, expected those of configs/compare/stability.yaml"
        )
    for summary in summaries:
        run_dir = summary.parent
        arm = ARM.fullmatch(run_dir.parent.name)
        if arm is None:
            raise ValueError(
                f"directory: got {run_dir}, expected a run of configs/compare/stability.yaml, named by its rate"
            )
        yield _read_run(run_dir.parent.parent.name, arm["connection"], float(arm["lr"]), run_dir / "metrics.jsonl")


def _read_run(depth: str, connection: str, lr: float, log: Path) -> StabilityRun:
    text = log.read_text(encoding="utf-8")

    def logged(key: str) -> list[float]:
        return read_metric(log, key)[1] if f'"{key}"' in text else []

    losses, norms = read_metric(log, "train/loss")[1], read_metric(log, "train/grad_norm")[1]
    tenth = max(1, len(losses) // 10)
    last_loss = sum(losses[-tenth:]) / tenth
    chance = math.log(10)
    return StabilityRun(
        depth=depth,
        connection=connection,
        lr=lr,
        last_loss=last_loss,
        grad_norm=_largest(norms[tenth:]),
        spikes=int(max(logged("train/loss_spikes"), default=0)),
        forward_gain=_largest(logged("gain/composite_forward")),
        backward_gain=_largest(logged("gain/composite_backward")),
        # written so that a loss that is not a number counts
        diverged=not (all(map(math.isfinite, losses)) and last_loss < chance),
    )


def _largest(values: list[float]) -> float | None:
    """NaN if any is, which max() may pass over."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=None)


def highest_stable(runs: list[StabilityRun]) -> StabilityRun | None:
    """The run of the highest learning rate up to which none has diverged."""
    best = None
    for run in sorted(runs, key=lambda run: run.lr):
        if run.diverged:
            break
        best = run
    return best


def table_row(depth: str, connection: str, lr: str, run: StabilityRun | None) -> dict[str, str]:
    """The figures of a run, with `lr` as its learning rate; of no run, dashes."""

    def shown(name: str, form: str) -> str:
        value = getattr(run, name, None)
        return "-" if value is None else format(value, form)

    return {
        "model": depth,
        "connection": connection,
        "learning rate": lr,
        "training loss": shown("last_loss", ".3f"),
        "gradient norm": shown("grad_norm", ".3g"),
        "spikes": shown("spikes", "d"),
        "forward gain": shown("forward_gain", ".4g"),
        "backward gain": shown("backward_gain", ".4g"),
    }


def summary_rows(runs: list[StabilityRun]) -> list[dict[str, str]]:
    """One row per depth and connection."""
    groups: dict[tuple[str, str], list[StabilityRun]] = defaultdict(list)
    for run in runs:
        groups[run.depth, run.connection].append(run)
    rows = []
    for (depth, connection), group in groups.items():
        best, tried = highest_stable(group), max(run.lr for run in group)
        lr = "none" if best is None else f"{best.lr:g}" + (", the highest tried" if best.lr == tried else "")
        rows.append(table_row(depth, connection, lr, best))
    return rows


def run_rows(runs: list[StabilityRun]) -> list[dict[str, str]]:
    """One row per run."""
    ordered = sorted(runs, key=lambda run: (run.depth, run.connection, run.lr))
    return [
        table_row(run.depth, run.connection, f"{run.lr:g}" + (", diverged" if run.diverged else ""), run)
        for run in ordered
    ]


def main() -> None:
    """Prints both tables and, where asked, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="--out of mhc-vision compare")
    parser.add_argument("--json", type=Path, help="also write the figures of all runs to this file")
    options = parser.parse_args()
    try:
        runs = list(read_runs(options.directory))
    except ValueError as error:
        parser.error(str(error))
    print(markdown_table(summary_rows(runs)))
    print(markdown_table(run_rows(runs)))
    if options.json is not None:
        record = {"date": time.strftime("%Y-%m-%d"), "runs": [vars(run) for run in runs]}
        replace_text(options.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
