"""The command `finetune`: `train` for pretrained models, and probes in place of a training."""

import dataclasses
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.command_line.given_settings import given_settings
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.option_names import options_of
from mhc_vision.command_line.recipes import with_config_paths
from mhc_vision.data import ImageDataModule
from mhc_vision.finetuning.module import FinetuneModule
from mhc_vision.finetuning.probe import run_probe
from mhc_vision.finetuning.segmentation import SegmentationModule
from mhc_vision.run_directory import BEST, LAST, NEWEST, PREDICTIONS, PROBE
from mhc_vision.training.callbacks.run_summary import RunSummary
from mhc_vision.training.callbacks.save_config import SaveConfigOnStart
from mhc_vision.training.callbacks.validation_lines import figures_line
from mhc_vision.training.cli import TrainCLI
from mhc_vision.training.jsonl_logger import JsonlLogger
from mhc_vision.training.run_guard import BeginRun
from mhc_vision.yaml_files import safe_load

_Callback = TypeVar("_Callback", bound=Callback)


class FinetuneCLI(TrainCLI):
    """`TrainCLI` for `FinetuneModule`.

    `fit` of a probe goes once through the images and leaves the same records as a training, and `probe.json` with what
    a linear probe tried. Where the data has test images of their own, `fit` ends with a test of the final weights.
    """

    command_name = "finetune"
    module_class: type[FinetuneModule] = FinetuneModule
    model: FinetuneModule

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the data knows, the model is told: its class names, too."""
        super().add_arguments_to_parser(parser)
        # a data module of one's own need not have them
        parser.link_arguments(
            "data", "model.class_names", lambda data: getattr(data, "class_names", None), "instantiate"
        )

    def fit(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Trains or probes, and tests; see `TrainCLI.fit` for `ckpt_path`."""
        self._say_start()
        if self.model.is_probe:
            self._probe(ckpt_path)
            return
        summary = self._callback(RunSummary)
        # data modules that are not ours know nothing of it
        summary.waits_for_test = getattr(self.datamodule, "has_test_set", False)
        super().fit(ckpt_path, **kwargs)
        # what a resumed run without steps left has are not the averaged weights of EMA
        if summary.waits_for_test and summary.has_trained:
            self._keep_weights()
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def _say_start(self) -> None:
        """What was loaded; with a warning where the images are not normalised as those that it has seen."""
        if not self.trainer.is_global_zero:
            return
        start = self.model.start
        trainable = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        print(f"start: {start.source}; head: {start.head}; trainable parameters: {trainable:,}", flush=True)
        if not isinstance(self.datamodule, ImageDataModule):
            return
        for name in ("mean", "std"):
            theirs = getattr(start, name)
            ours = getattr(self.datamodule.batch_augment, name).flatten().tolist()
            if len(ours) == len(theirs) and any(abs(a - b) > 1e-3 for a, b in zip(ours, theirs, strict=True)):
                warnings.warn(
                    f"data.{name} is {[round(value, 4) for value in ours]}, but {start.source} was trained with "
                    f"{list(theirs)}",
                    stacklevel=2,
                )

    def _probe(self, ckpt_path: str | None) -> None:
        with self._setup_mark.refusals_as_messages(), self._run_directory_of_its_own():
            self._probe_alone(ckpt_path)

    def _probe_alone(self, ckpt_path: str | None) -> None:
        run_dir = Path(self.trainer.default_root_dir)
        started = time.monotonic()
        try:
            if ckpt_path not in (None, NEWEST):
                raise ValueError(f"ckpt_path: got {ckpt_path!r}, expected none: a probe has no steps to go on from")
            if ckpt_path == NEWEST and (run_dir / BEST).exists():
                raise ValueError(
                    f"ckpt_path: got {ckpt_path!r}, expected the directory of a probe, but {run_dir} holds a training"
                )
            if not isinstance(self.datamodule, ImageDataModule):
                raise ValueError(f"data: got {type(self.datamodule).__name__}, expected an ImageDataModule for a probe")
            self._keep_weights()
            result, predictions = run_probe(self.trainer, self.model, self.datamodule)
        except ValueError as error:
            fail(f"error: {error}", status=2)
        seconds = time.monotonic() - started
        if result.chosen is not None:
            print(f"chosen: {result.chosen.description}")
        for stage, name in (("val", "validation"), ("test", "test")):
            if f"{stage}/top1" in result.metrics:
                print(figures_line(name, stage, result.metrics, seconds), flush=True)
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # what an earlier probe has left
        self._callback(BeginRun).begin()
        for logger in self.trainer.loggers:
            if isinstance(logger, JsonlLogger):
                logger.forget_from(0)
        self._callback(SaveConfigOnStart).write(self.trainer)
        if predictions is not None:
            predictions.save(run_dir / PREDICTIONS)
        if result.candidates:
            record = dataclasses.asdict(result)
            replace_text(run_dir / PROBE, json_text(record, indent=2) + "\n")
            self.trainer.save_checkpoint(run_dir / LAST, weights_only=False)
        for logger in self.trainer.loggers:
            logger.log_metrics(result.metrics, step=0)
        self._callback(RunSummary).write(self.trainer, self.model, result.metrics, 0, 1, seconds)

    def _callback(self, kind: type[_Callback]) -> _Callback:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, kind))


class SegmentationCLI(FinetuneCLI):
    """`FinetuneCLI` for models with a decoder."""

    module_class = SegmentationModule


def finetune_cli(words: Sequence[str]) -> type[FinetuneCLI]:
    """The command that checked words are for: one of segmentation where they set `model.decoder`."""
    given = given_settings(with_config_paths(list(words)), safe_load)
    return SegmentationCLI if options_of("finetune", given) == "segmentation" else FinetuneCLI
