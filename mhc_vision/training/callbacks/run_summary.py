"""`summary.json`: what a finished run was, what it reached and what it took."""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.connection_text import constraint_of
from mhc_vision.data.machine import share_of_data
from mhc_vision.metrics_log import read_metric
from mhc_vision.models.instruments.costs import count_parameters, image_macs
from mhc_vision.training.connection_lr import connection_learning_rates
from mhc_vision.training.jsonl_logger import JsonlLogger
from mhc_vision.version import versions


class RunSummary(Callback):
    """Writes `summary.json` when training has come to its end.

    Args:
        path: The file.
        command: The command line of the run, as words.
        seed: Of the run (`seed_everything`); `None` where it has none.

    Attributes:
        waits_for_test: Whether a test follows the training: a run that is killed in between has no summary.
    """

    def __init__(self, path: Path, command: Sequence[str] = (), seed: int | None = None) -> None:
        self.path = path
        self.command = list(command)
        self.seed = seed
        self.waits_for_test = False
        self._started = 0.0
        self._gmacs = 0.0
        self._record: dict[str, Any] = {}
        self._validated_at_step: int | None = None
        self._images_per_batch = 0

    @property
    def has_trained(self) -> bool:
        """Whether this process has taken part in a training: one that had no step left has not."""
        return self._started > 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Counts the model's multiply-accumulates, before it is compiled or spread over processes."""
        if stage in ("fit", "predict") and trainer.is_global_zero:
            self._gmacs = image_macs(pl_module.get_submodule("model"), _input_size(pl_module)) / 1e9

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the size of a batch."""
        self._images_per_batch = max(self._images_per_batch, len(batch[0]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what the figures of validation are of: a run may end some steps after its last validation."""
        if not trainer.sanity_checking:
            self._validated_at_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, on the first process only; where a test follows, that does."""
        seconds = time.monotonic() - self._started
        metrics = dict(trainer.callback_metrics)
        self.write(trainer, pl_module, metrics, trainer.global_step, trainer.current_epoch, seconds)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file of a run that is tested at its end, with the figures of training and test."""
        if self._record:
            self._record["metrics"] = _sorted({**self._record["metrics"], **trainer.callback_metrics})
            self._save()

    def write(
        self,
        trainer: Trainer,
        module: LightningModule,
        metrics: Mapping[str, Any],
        steps: int,
        epochs: int,
        seconds: float,
    ) -> None:
        """Writes the file, on the first process only.

        Args:
            trainer: Of the run.
            module: What was trained.
            metrics: What it reached, by name.
            steps: Optimiser steps.
            epochs: Passes over the training data.
            seconds: What it took.
        """
        # a trial of the code is no run: it must not replace the summary of one
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        device = trainer.strategy.root_device
        model = module.get_submodule("model")
        self._record = {
            "name": module.hparams["name"],
            "connection": module.hparams["connection"],
            "constraint": constraint_of(module.hparams),
            # what the model has: not every residual design follows the setting
            "num_streams": getattr(model, "num_streams", 1),
            **{key: module.hparams[key] for key in ("source", "method") if key in module.hparams},
            "seed": self.seed,
            **_connection_rates(trainer),
            "metrics": _sorted(metrics),
            "params": count_parameters(model),
            "gmacs": round(self._gmacs, 9),
            "steps": steps,
            "validated_at_step": self._validated_at_step,
            "epochs": epochs,
            # of all processes together; none where nothing was trained
            "images_per_step": self._images_per_batch * trainer.accumulate_grad_batches * share_of_data(trainer)[1]
            or None,
            "wall_time_s": round(seconds, 1),
            **_perf(trainer, device),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "num_processes": trainer.world_size,
            "versions": versions(),
            "command": self.command,
        }
        if not self.waits_for_test:
            self._save()

    def _save(self) -> None:
        replace_text(self.path, json_text(self._record, indent=2) + "\n")


def _connection_rates(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Peak learning rates of the connections, where there are any."""
    rates = connection_learning_rates(trainer.optimizers, "initial_lr")
    return {"connection_lr": rates} if rates else {}


def _sorted(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(metrics.items()))


def steady_median(images_per_s: Sequence[float]) -> float:
    """Median of logged rates without the first tenth, at least one where there are more, in which a run warms up."""
    warmup = min(max(1, len(images_per_s) // 10), len(images_per_s) - 1)
    return statistics.median(images_per_s[warmup:])


def _input_size(module: LightningModule) -> tuple[int, int, int]:
    size = module.hparams["img_size"]
    height, width = (size, size) if size else module.get_submodule("model").default_cfg["input_size"][1:]  # type: ignore
    return module.hparams["in_chans"], height, width


def _perf(trainer: Trainer, device: torch.device) -> dict[str, float | None]:
    """Speed and memory; `None` for what the run did not log, and for memory where the system does not tell it."""
    logs = [logger.path for logger in trainer.loggers if isinstance(logger, JsonlLogger)]
    rates = _logged(logs, "perf/images_per_s")
    if device.type == "cuda":
        # the log's figures are those of its intervals, each counted anew
        peaks = [*_logged(logs, "perf/memory_gib"), torch.cuda.max_memory_allocated(device) / 2**30]
        peak: float | None = max(peaks)
    else:
        peak = _resident_gib()
    return {
        "images_per_s": round(steady_median(rates), 3) if rates else None,
        "peak_memory_gib": None if peak is None else round(peak, 4),
    }


def _logged(logs: Sequence[Path], key: str) -> list[float]:
    values: list[float] = []
    for path in logs:
        if path.exists() and f'"{key}"' in path.read_text(encoding="utf-8"):
            values += read_metric(path, key)[1]
    return values


def _resident_gib() -> float | None:
    """Most memory that this process has had in RAM so far."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)
