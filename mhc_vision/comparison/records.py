"""What finished runs of a matrix recorded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhc_vision.analysis.curves import smooth
from mhc_vision.comparison.matrix import Cell
from mhc_vision.metrics_log import read_metric

SUMMARY = "summary.json"
LOG = "metrics.jsonl"

_NEEDED = (
    "steps", "epochs", "seed", "params", "gmacs", "images_per_s", "peak_memory_gib", "device", "versions"
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A logged metric: steps as the log counts them, from 0, and the values there."""

    steps: Sequence[int]
    values: Sequence[float]

    @property
    def pair(self) -> tuple[Sequence[int], Sequence[float]]:
        """Steps and values."""
        return self.steps, self.values

    @property
    def last(self) -> float:
        """The final value."""
        return self.values[-1]


@dataclass(frozen=True)
class RunRecord:
    """Records of one finished run.

    Attributes:
        cell: The run.
        summary: Its `summary.json`.
        curves: `val/loss`, `val/top1` and the smoothed `train/loss` by name.
    """

    cell: Cell
    summary: Mapping[str, Any]
    curves: Mapping[str, Curve]


def read_record(cell: Cell, run_dir: Path) -> RunRecord:
    """Reads the records of a finished run.

    The training loss is smoothed by a trailing mean over a tenth of its logged values.

    Raises:
        ValueError: A record is missing, broken, or of another run.
    """
    for name in (SUMMARY, LOG):
        if not (run_dir / name).is_file():
            raise ValueError(f"{run_dir} has no {name}, expected the records of a finished run")
    path = run_dir / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if missing := [key for key in _NEEDED if key not in summary]:
        raise ValueError(f"{path} has no {', '.join(missing)}: it is not of this version's `train`")
    if summary["seed"] != cell.seed:
        raise ValueError(f"{path} is of seed {summary['seed']}, expected seed {cell.seed}")
    curves = {key: Curve(*read_metric(run_dir / LOG, key)) for key in ("val/loss", "val/top1", "train/loss")}
    loss = curves["train/loss"]
    window = max(1, len(loss.values) // 10)
    curves["train/loss"] = Curve(loss.steps, smooth(list(loss.values), window))
    return RunRecord(cell, summary, curves)
