"""What all datasets share: loaders, their order, and the work on the device."""

import random
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mhc_vision.checks import check_choice, check_whole_number, same_setting
from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.class_names import distinct_names
from mhc_vision.data.loaders import LazyDataLoader, outlive_sigterm
from mhc_vision.data.machine import share_of_data
from mhc_vision.data.order import (
    EvaluationSampler,
    SeededDataset,
    ShuffledSampler,
    Start,
    derive_seed,
    position_of_step,
)

Metric = Literal["top1", "mean_per_class"]
"""By which models are compared on a dataset: accuracy over all samples, or the mean of the classes' accuracies."""

MAX_SEED = 2**32 - 1
"""The largest that Lightning's `seed_everything` takes, too."""

# options that do not change what is trained on; batch_size counts as what follows from it and total_batch_size
DATA_FREE_TO_CHANGE = (
    *("root", "cache", "download", "complete", "num_workers", "batch_size", "total_batch_size"),
    *("keep_on", "in_memory", "test_split", "metric", "allow_commands", "_instantiator"),
)
# what the model sees and is asked; all else in a checkpoint is about training
_OF_EVALUATION = {"class_names", "mean", "std", "crop_pct", "interpolation", "exif_orientation"}


class ImageDataModule(LightningDataModule):
    """Base of the datasets; a subclass sets the attributes below at construction.

    The loaders give (images uint8 (B, in_chans, img_size, img_size), labels int64 (B,)). On the device they become
    (images fp32 normalised, targets): soft (B, num_classes) when mixed in training, else the labels.

    Samplers know the processes of a distributed run: use `Trainer(use_distributed_sampler=False)`. In training the
    samples that do not fill an optimiser step, a batch in every process or several accumulated ones, are left out,
    other ones each epoch: the gradient of a step with fewer batches would be too small. The order depends on
    (seed, epoch) only, the transforms of a sample on (seed, epoch, sample), and what is random in a step (Mixup,
    CutMix, DropPath, dropout) on (seed, batch, process): a resumed run goes on like the uninterrupted one wherever its
    checkpoint was written, in the middle of an epoch too, whatever the number of workers.

    Args:
        batch_size: Images per batch in each process.
        num_workers: Worker processes of each loader, 0 to load in the main process.
        seed: Seed of the training order.
        repeats: How often each sample comes in a row, differently augmented (repeated augmentation); 1 for once.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches; if given,
            `batch_size` is what follows from it.

    Attributes:
        class_names: Name of each class, in the order of the labels.
        in_chans: Channels of an image.
        img_size: Height and width of an image, in pixels.
        train_set: Training samples (uint8 image, label).
        eval_set: Samples of validation.
        test_set: Samples of test; those of validation where a subclass sets no others.
        metric: By which models are compared on this dataset, `"top1"` where a subclass sets nothing else.
        batch_augment: The work on the device.
        crop_pct: Part of the shorter side that evaluation crops.
        interpolation: Of resizing.
        exif_orientation: Whether photos are turned upright; `None` where a subclass does not say.

    Raises:
        ValueError: If an argument is out of range.
    """

    class_names: list[str]
    in_chans: int
    img_size: int
    train_set: Dataset
    eval_set: Dataset
    batch_augment: BatchAugment
    metric: str = "top1"
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    exif_orientation: bool | None = None

    def __init__(
        self, batch_size: int, num_workers: int, seed: int, repeats: int = 1, total_batch_size: int | None = None
    ) -> None:
        super().__init__()
        # those of the subclass, for checkpoints; the model's are the ones that loggers show
        self.save_hyperparameters(logger=False)
        check_whole_number("batch_size", batch_size, at_least=1)
        check_whole_number("num_workers", num_workers, at_least=0)
        check_whole_number("repeats", repeats, at_least=1)
        if total_batch_size is not None:
            check_whole_number("total_batch_size", total_batch_size, at_least=1)
        check_whole_number("seed", seed, at_least=0, at_most=MAX_SEED)
        self.repeats = repeats
        self.total_batch_size = total_batch_size
        self._batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    @cached_property
    def test_set(self) -> Dataset:
        """Samples of test."""
        return self.eval_set

    @property
    def has_test_set(self) -> bool:
        """Whether test and validation have different samples."""
        return self.test_set is not self.eval_set

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self.train_set)  # type: ignore[arg-type]

    @property
    def batch_size(self) -> int:
        """Images per batch in each process: as given, or `total_batch_size` divided as the trainer runs.

        Raises:
            ValueError: If `total_batch_size` does not divide, or is no fixed number of batches.
        """
        if self.total_batch_size is None:
            return self._batch_size
        processes, accumulated = self._process()[1], self._accumulated()
        batch_size, rest = divmod(self.total_batch_size, processes * accumulated)
        if rest:
            raise ValueError(
                f"total_batch_size: got {self.total_batch_size}, expected a multiple of {processes * accumulated}: "
                f"{processes} processes x {accumulated} accumulated batches (trainer.accumulate_grad_batches)"
            )
        return batch_size

    def train_dataloader(self) -> DataLoader:
        """Shuffled whole optimiser steps, equally many in each process.

        Raises:
            ValueError: If the training samples do not fill one step, or steps differ in their number of batches.
        """
        rank, world_size = self._process()
        num_samples = self.num_train
        batch_size, accumulated = self.batch_size, self._accumulated()
        needed = batch_size * accumulated * world_size
        if num_samples < needed:
            times = f" x {accumulated} accumulated batches" if accumulated > 1 else ""
            raise ValueError(
                f"data: got {num_samples} training samples, expected at least {needed}: batch_size={batch_size} in "
                f"each of {world_size} processes{times}"
            )
        # Lightning asks for them when a part of the training is done
        self._check_evaluation_size(self.eval_set)
        multiple = batch_size * accumulated
        sampler = ShuffledSampler(num_samples, self._position, self.seed, rank, world_size, self.repeats, multiple)
        return LazyDataLoader(self._seeded_train_set(), sampler=sampler, drop_last=True, **self._loader_options())

    def val_dataloader(self) -> DataLoader:
        """Every validation sample exactly once over all processes, in a fixed order."""
        return self._evaluation_loader(self.eval_set)

    def test_dataloader(self) -> DataLoader:
        """Every test sample exactly once over all processes, in a fixed order."""
        return self._evaluation_loader(self.test_set)

    def predict_dataloader(self) -> list[DataLoader]:
        """The images of training, validation and, where it has its own, test: each once, in order, as in evaluation."""
        loaders = [self._evaluation_loader(self._unaugmented_train_set()), self.val_dataloader()]
        return [*loaders, self.test_dataloader()] if self.has_test_set else loaders

    def on_before_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Seed what is random in a training step, from here to the end of its backward pass."""
        if self.trainer is not None and self.trainer.training:
            # those of this step that the gradient has already
            gathered = (self.trainer.fit_loop.batch_idx + 1) % self.trainer.accumulate_grad_batches
            batches = position_of_step(self.trainer, self.trainer.global_step).batches + gathered
            seed = derive_seed("step", self.seed, batches, self._process()[0])
            torch.manual_seed(seed)
            # timm's random erasing draws its places there
            random.seed(seed)
        return batch

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise a batch on its device and, while training, augment it."""
        images, labels = batch
        training = self.trainer is not None and self.trainer.training
        return self.batch_augment.to(images.device).train(training)(images, labels)

    def state_dict(self) -> dict[str, Any]:
        """What the images, labels and order of a run depend on, for its checkpoints."""
        said = {} if self.exif_orientation is None else {"exif_orientation": self.exif_orientation}
        return {
            "class_names": list(self.class_names),
            "mean": self.batch_augment.mean.flatten().tolist(),
            "std": self.batch_augment.std.flatten().tolist(),
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            **said,
            "num_train": self.num_train,
            "batch_size": self.batch_size,
            "num_processes": self._process()[1],
            "accumulate_grad_batches": 1 if self.trainer is None else self.trainer.accumulate_grad_batches,
            "seed": self.seed,
            "options": {name: value for name, value in self.hparams.items() if name not in DATA_FREE_TO_CHANGE},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a resumed run has the data, and the division of it, that its checkpoint was made with.

        Where a checkpoint is validated or tested, classes, normalisation and evaluation crop have to be its own; how
        it was trained does not matter then.

        Raises:
            ValueError: If anything differs.
        """
        given, saved = ({**state.get("options", {}), **state} for state in (self.state_dict(), state_dict))
        # before it was an option, it was not done
        saved.setdefault("exif_orientation", False)
        names = given.keys() & saved.keys() - {"options"}
        if self.trainer is not None and self.trainer.state.fn in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            names &= _OF_EVALUATION
        if "class_names" in saved:
            # before they were, ImageNet had two classes of one name
            saved["class_names"] = distinct_names(saved["class_names"])
        for name in sorted(names):
            if not same_setting(given[name], saved[name]):
                raise ValueError(f"data: {name}: got {given[name]}, expected {saved[name]} as in the checkpoint")

    def _check_evaluation_size(self, samples: Dataset) -> None:
        """Raise ValueError unless each process has images to evaluate on; one without keeps the others waiting."""
        count, processes = len(samples), self._process()[1]  # type: ignore[arg-type]
        if count < processes:
            split = "test" if samples is vars(self).get("test_set") and samples is not self.eval_set else "validation"
            advice = "give it more" if processes == 1 else "give it more, or take fewer processes (trainer.devices)"
            raise ValueError(f"data: got {count} {split} images for {processes} processes, expected one each; {advice}")

    def _evaluation_loader(self, samples: Dataset) -> DataLoader:
        self._check_evaluation_size(samples)
        rank, world_size = self._process()
        sampler = EvaluationSampler(len(samples), rank, world_size)  # type: ignore[arg-type]
        return DataLoader(samples, sampler=sampler, **self._evaluation_options())

    def _unaugmented_train_set(self) -> Dataset:
        """Training samples as in evaluation: where they are not augmented one by one, the training samples."""
        return self.train_set

    def _seeded_train_set(self) -> Dataset:
        """Training samples by (index, place), which is what the training sampler gives."""
        return SeededDataset(self.train_set)

    def _process(self) -> tuple[int, int]:
        """Rank of this process, number of processes, where those of a pipeline count as one."""
        return share_of_data(self.trainer)

    def _accumulated(self) -> int:
        """Batches of an optimiser step in each process."""
        if self.trainer is None:
            return 1
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
            raise ValueError(
                "trainer.callbacks: got a GradientAccumulationScheduler, expected trainer.accumulate_grad_batches, the "
                "same in all epochs: where a training stands follows from its steps"
            )
        return self.trainer.accumulate_grad_batches

    def _position(self) -> Start:
        """Where the trainer stands in its training; the start of epoch 0 outside of training."""
        if self.trainer is None or not self.trainer.training:
            return 0, 0
        position = position_of_step(self.trainer, self.trainer.global_step)
        return position.epoch, position.batch * self.batch_size

    def _evaluation_options(self) -> dict[str, Any]:
        return self._loader_options()

    def _loader_options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": outlive_sigterm,
        }


def checked_metric(metric: str) -> str:
    """The metric.

    Raises:
        ValueError: If it is none.
    """
    check_choice("metric", metric, get_args(Metric))
    return metric
