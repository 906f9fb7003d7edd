"""What the connections contribute: the validation loss with their maps set back to their start, minus that loss."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor
from tqdm import tqdm

from mhc_vision.contribution import ERROR, VALUE, Contribution
from mhc_vision.layers import maps_at_start, named_connections
from mhc_vision.models.instruments.contribution import LossDifferences, contribution_of
from mhc_vision.training.callbacks.step_interval import is_last_step
from mhc_vision.training.evaluating import evaluating
from mhc_vision.training.sharding import connections_gathered, is_sharded


class MapContribution(Callback):
    """Logs `val/contribution` and its standard error, `val/contribution_se`, at the end of a run, and says it.

    Each image of the last validation passes the model once more, with the maps of all connections and gated read-outs
    at their start, where the model is the plain one with the same weights. The contribution is the mean over images of
    the difference of the two losses. Weights, random numbers and the optimiser are left alone; with EMA, the weights
    are the average, as in validation. Where a run ends after its last validation, its final weights see the
    validation images twice more.

    A plain model has nothing to log.

    Args:
        every_validation: Measure in every validation, not only at the end.
    """

    def __init__(self, every_validation: bool = False) -> None:
        if not isinstance(every_validation, bool):
            raise ValueError(f"every_validation: got {every_validation!r}, expected true or false")
        self.every_validation = every_validation
        self._differences = LossDifferences("ce")
        self._measures = self._is_watching = False
        self._measured_at: int | None = None
        self._last: Contribution | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks whether there is something to measure; raises ValueError if EMA would put its weights in too late."""
        self._measures = stage == "fit" and bool(named_connections(pl_module.get_submodule("model")))
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self._measures and any(isinstance(later, WeightAveraging) for later in callbacks[callbacks.index(self) :]):
            raise ValueError("trainer.callbacks: got MapContribution before EMA, expected it after EMA")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decides whether this is a validation to measure in."""
        self._is_watching = (
            self._measures and not trainer.sanity_checking and (self.every_validation or is_last_step(trainer))
        )
        self._differences = LossDifferences(pl_module.hparams["loss"])

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Passes a batch through the model again."""
        if self._is_watching:
            self._add(trainer, pl_module, batch, outputs["logits"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs it beside the loss."""
        if self._is_watching:
            measured = self._measured(trainer, pl_module)
            pl_module.log_dict({VALUE: measured.value, ERROR: measured.standard_error}, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the final weights where no validation did, and says what they contribute."""
        if not self._measures or trainer.val_dataloaders is None:
            return
        if self._measured_at != trainer.global_step:
            self._measure_now(trainer, pl_module)
        if self._last is not None:
            _say(
                trainer,
                f"validation loss with the maps set back to their start: {self._last.figures}; {self._last.words}",
            )

    def _measure_now(self, trainer: Trainer, module: LightningModule) -> None:
        self._differences = LossDifferences(module.hparams["loss"])
        # shards that are gathered in inference mode could not be trained on
        no_grad = torch.no_grad() if is_sharded(module.get_submodule("model")) else torch.inference_mode()
        with _validating(trainer), evaluating(module), no_grad:
            for batch in _validation_batches(trainer, module):
                self._add(trainer, module, batch, _logits(trainer, module, batch[0]))
        measured = self._measured(trainer, module)
        figures = {VALUE: measured.value, ERROR: measured.standard_error}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})
        for logger in trainer.loggers:
            logger.log_metrics({**figures, "epoch": trainer.current_epoch}, step=trainer.global_step - 1)

    def _add(self, trainer: Trainer, module: LightningModule, batch: Any, logits: Tensor) -> None:
        images, targets = batch
        model = module.get_submodule("model")
        with connections_gathered(model), maps_at_start(model):
            self._differences.add(logits, _logits(trainer, module, images), targets)

    def _measured(self, trainer: Trainer, module: LightningModule) -> Contribution:
        """Of the images of all processes."""
        moments = self._differences.moments()
        # of a single process there is none
        if (shares := trainer.distributed_sampler_kwargs) is not None:
            moments = trainer.strategy.reduce(moments.to(module.device), reduce_op="sum")
            # all processes of a pipeline see the same images
            moments = moments * shares["num_replicas"] / trainer.world_size
        self._measured_at = trainer.global_step
        self._last = contribution_of(moments)
        return self._last


def _logits(trainer: Trainer, module: LightningModule, images: Tensor) -> Tensor:
    with trainer.precision_plugin.val_step_context():
        logits: Tensor = module(images)
    return logits


@contextmanager
def _validating(trainer: Trainer) -> Iterator[None]:
    """The stage by which data modules tell that nothing is to be augmented; random numbers stay as they are."""
    stage = trainer.state.stage
    device = trainer.strategy.root_device
    trainer.state.stage = RunningStage.VALIDATING
    try:
        # the loader draws a seed for its workers
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        trainer.state.stage = stage


def _validation_batches(trainer: Trainer, module: LightningModule) -> Iterator[Any]:
    """The batches of a validation on the model's device, as Lightning's evaluation loop makes them."""
    (limit,) = trainer.num_val_batches
    for index, batch in enumerate(trainer.val_dataloaders):  # type: ignore[arg-type]
        if index >= limit:
            return
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        yield trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _say(trainer: Trainer, line: str) -> None:
    if trainer.is_global_zero:
        # a bar that is there makes room
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
