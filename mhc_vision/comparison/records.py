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

MAPS = ("travel/pre", "travel/post", "travel/res", "gain/composite_forward", "gain/composite_backward")

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
        maps: The last figures of its connections' maps that were logged, by the names of `MAPS`; those there are.
    """

    cell: Cell
    summary: Mapping[str, Any]
    curves: Mapping[str, Curve]
    maps: Mapping[str, float]


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
    return RunRecord(cell, summary, curves, _last_logged(run_dir / LOG, MAPS))


def _last_logged(log: Path, keys: Sequence[str]) -> dict[str, float]:
    """The last value of each key that a log has; plain models log nothing of maps, nor do runs of a few steps."""
    text = log.read_text(encoding="utf-8")
    return {key: read_metric(log, key)[1][-1] for key in keys if f'"{key}"' in text}
