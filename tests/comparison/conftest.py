import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mhc_vision.comparison.plan.matrix import Cell, Matrix, parse_matrix


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A matrix of two arms and two seeds, with its files in the working directory."""
    files = {
        "recipe.yaml": {"model": {"name": "test_vit", "lr": 1e-3}},
        "plain.yaml": {"model": {"connection": None}},
        "mhc.yaml": {"model": {"connection": "mhc", "num_streams": 4}},
    }
    for name, settings in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return {
        "name": "tiny",
        "recipes": {"digits": ["recipe.yaml"]},
        "arms": {"plain": ["plain.yaml"], "mhc": {"config": ["mhc.yaml"], "set": {"model.lr": 0.01}}},
        "seeds": [0, 1],
        "gpus": 0,
    }


@pytest.fixture
def matrix(content: dict[str, Any]) -> Matrix:
    return parse_matrix(content)


@pytest.fixture
def write_run() -> Callable[..., None]:
    """Writes the records of a finished run, four steps with two validations."""

    def write(
        run_dir: Path,
        cell: Cell,
        *,
        top1: tuple[float, float] = (0.5, 0.75),
        loss: tuple[float, float] = (1.0, 0.5),
        total: int = 1000,
        images_per_s: float | None = 100.0,
        travel: float | None = None,
        contribution: tuple[float, float] | None = None,
        tested: dict[str, float] | None = None,
        steps: int = 4,
        images_per_step: int | None = None,
        gmacs: float = 0.25,
    ) -> None:
        reached = {"val/top1": top1[-1], "val/loss": loss[-1], "train/loss": 1.7, **(tested or {})}
        summary = {"steps": steps, "epochs": 2, "images_per_s": images_per_s, "metrics": reached, "gmacs": gmacs}
        if images_per_step is not None:
            # records of earlier versions lack it
            summary["images_per_step"] = images_per_step
        records: list[dict[str, float]] = [{"step": step, "train/loss": 2.0 - 0.1 * step} for step in range(4)]
        records += [{"step": 2 * i + 1, "val/top1": top1[i], "val/loss": loss[i]} for i in range(2)]
        if travel is not None:
            moved = {f"travel/{name}": travel for name in ("pre", "post", "res")}
            gains = {"gain/composite_forward": 1.0, "gain/composite_backward": 1.5}
            records += [{"step": 1, **dict.fromkeys(moved, 0.0), **gains}, {"step": 3, **moved, **gains}]
        if contribution is not None:
            measured = dict(zip(("val/contribution", "val/contribution_se"), contribution, strict=True))
            reached |= measured
            records.append({"step": 3, **measured, "streams/memory": 0.79})
        if tested is not None:
            # as fine-tuning does behind its last step
            records.append({"step": 4, **tested})
        _write(run_dir, cell, summary, records, {"total": total})

    return write


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in place of the figures of single tasks, which take most of the time of a report."""

    def files(*arguments: Any, **_: Any) -> list[Path]:
        destination = arguments[-1]
        destination.parent.mkdir(exist_ok=True)
        made = [destination.with_name(destination.name + suffix) for suffix in (".png", ".svg")]
        for file in made:
            file.touch()
        return made

    monkeypatch.setattr("mhc_vision.comparison.report.drawing.plot_seed_bands", files)
    monkeypatch.setattr("mhc_vision.comparison.report.verdict_blocks.plot_forest", files)


@pytest.fixture
def write_probe() -> Callable[..., None]:
    """Writes the records of a probe, which takes no step and logs once what it is given."""

    def write(run_dir: Path, cell: Cell, reached: dict[str, float]) -> None:
        summary = {"steps": 0, "epochs": 1, "images_per_s": None, "metrics": reached}
        _write(run_dir, cell, summary, [{"step": 0, **reached}], {"total": 1000, "trainable": 10})

    return write


def _write(
    run_dir: Path, cell: Cell, summary: dict[str, Any], records: list[dict[str, float]], params: dict[str, int]
) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    common = {
        "seed": cell.seed,
        "params": {**params, "connections": 0, "extra_percent": 0.0},
        "gmacs": 0.25,
        "peak_memory_gib": 1.5,
        "device": "cpu",
        "versions": {"torch": "2.11.0"},
    }
    (run_dir / "summary.json").write_text(json.dumps({**common, **summary}))
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
