"""`summary.json`: what a finished run was and what it reached."""

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.layers import connection_parameters
from mhc_vision.version import __version__


class RunSummary(Callback):
    """Writes `summary.json` when training has come to its end.

    Args:
        path: The file.
        command: The command line of the run, as words.
    """

    def __init__(self, path: Path, command: Sequence[str] = ()) -> None:
        self.path = path
        self.command = list(command)
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, on the first process only."""
        if not trainer.is_global_zero:
            return
        summary = {
            "name": pl_module.hparams["name"],
            "connection": pl_module.hparams["connection"],
            "num_streams": pl_module.hparams["num_streams"] if pl_module.hparams["connection"] else 1,
            "metrics": dict(sorted(trainer.callback_metrics.items())),
            "params": count_parameters(pl_module.get_submodule("model")),
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "wall_time_s": round(time.monotonic() - self._started, 1),
            "versions": versions(),
            "command": self.command,
        }
        replace_text(self.path, json_text(summary, indent=2) + "\n")


def count_parameters(model: nn.Module) -> dict[str, Any]:
    """Counts `total`, `connections` and `extra_percent`: what the connections add to the plain model, in %."""
    total = sum(parameter.numel() for parameter in model.parameters())
    connections = sum(parameter.numel() for _, parameter in connection_parameters(model))
    return {
        "total": total,
        "connections": connections,
        "extra_percent": round(100.0 * connections / (total - connections), 4),
    }


def versions() -> dict[str, str]:
    """Of this package and of those that a result depends on."""
    return {"mhc_vision": __version__, **{package: version(package) for package in ("torch", "timm", "lightning")}}
