"""Append-only metric log: one JSON object per line."""

import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.json_files import json_object
from mhc_vision.run_directory import METRICS_LOG


class JsonlLogger(Logger):
    """Writes `metrics.jsonl`: a line with `step`, `epoch`, `time` (seconds since 1970) and the metrics of that moment.

    Lines are appended and reach the file one by one, so a resumed run continues the file of the first and a killed run
    keeps what it logged; see `ForgetLaterSteps` for what it logged after its checkpoint. NaN and infinities are the
    texts `"nan"`, `"inf"`, `"-inf"`, which `float()` reads.

    Args:
        save_dir: The run directory; made when the first line is written.
    """

    def __init__(self, save_dir: str | os.PathLike[str]) -> None:
        super().__init__()
        self._save_dir = os.fspath(save_dir)
        self._checked_tail = False

    @property
    def name(self) -> str:
        """Empty: the run directory is the name."""
        return ""

    @property
    def version(self) -> str:
        """Empty: runs are told apart by their directory."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory, which Lightning then uses as `trainer.log_dir`."""
        return self._save_dir

    @property
    def path(self) -> Path:
        """The file written to."""
        return Path(self._save_dir) / METRICS_LOG

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Appends one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._checked_tail:
            self._drop_unfinished_line()
            self._checked_tail = True
        record = {"step": step, "epoch": metrics.get("epoch"), "time": round(time.time(), 3), **metrics}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json_text(record) + "\n")
            # a checkpoint that is on the disk must not be ahead of the log
            file.flush()
            os.fsync(file.fileno())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Writes nothing: `config.yaml` in the run directory holds every setting of the run."""

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Removes the lines of this step and of later ones."""
        if not self.path.exists():
            return
        self._drop_unfinished_line()
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        records = (
            json_object("log", line, f"{self.path}, line {place}", ("step",)) for place, line in enumerate(lines, 1)
        )
        kept = [line for line, record in zip(lines, records, strict=True) if record["step"] < step]
        if len(kept) < len(lines):
            replace_text(self.path, "".join(kept))

    def _drop_unfinished_line(self) -> None:
        """Removes what a killed run may have left of its last line, which is no record."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())


class ForgetLaterSteps(Callback):
    """Removes from `metrics.jsonl`, when a run goes on, what was logged after the checkpoint and comes again."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the checkpoint is restored, before the first step."""
        for logger in trainer.loggers:
            if isinstance(logger, JsonlLogger):
                logger.forget_from(trainer.global_step)
