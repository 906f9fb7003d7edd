"""Datasets that fit in memory, on the GPU where it has room."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from mhc_vision.checks import check_choice
from mhc_vision.data.datamodule import ImageDataModule
from mhc_vision.data.order import Place

Batch = tuple[Tensor, Tensor]
KeepOn = Literal["auto", "cpu", "device"]

AUTO_SHARE = 0.25
"""Images stay on the GPU by themselves if they take at most this share of its free memory."""


class InMemoryImages(TensorDataset):
    """Images and labels in the memory of a device, that gives batches instead of samples.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(images, labels)

    @property
    def device(self) -> torch.device:
        """Where images and labels are."""
        return self.tensors[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return self.tensors[0].nbytes

    def check_labels(self, num_classes: int) -> None:
        """Raise ValueError unless each label is that of a class."""
        labels = self.tensors[1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"data: got labels from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}: "
                f"there are names for {num_classes} classes"
            )

    def to(self, device: torch.device) -> None:
        """Move images and labels."""
        self.tensors = tuple(tensor.to(device) for tensor in self.tensors)

    def __getitems__(self, drawn: Sequence[int | tuple[int, Place]]) -> Batch:
        """A batch, images (B, C, H, W) and labels (B,), on the device where the images are.

        Args:
            drawn: Indices, or the training sampler's (index, place) pairs: nothing is random here, which needs no seed.
        """
        indices = torch.tensor([one if isinstance(one, int) else one[0] for one in drawn])
        if self.device.type == "cuda":
            # a copy from pinned memory does not wait for the step that the GPU is busy with
            indices = indices.pin_memory().to(self.device, non_blocking=True)
        images, labels = (tensor[indices] for tensor in self.tensors)
        return images, labels


def collate_batch(batch: Batch) -> Batch:
    """Pass on what `InMemoryImages` has gathered."""
    return batch


class InMemoryDataModule(ImageDataModule):
    """Base of the datasets whose images are uint8 tensors in memory; a batch is one gather, without work per sample.

    Args:
        batch_size: Images per batch in each process.
        num_workers: Worker processes of each loader; 0 is fastest, others read images on the CPU only.
        seed: Seed of the training order.
        repeats: How often each sample comes in a row; 1 for once.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches.
        keep_on: Where the images stay: "cpu" in main memory, "device" on the device that trains; "auto" on the GPU that
            trains if they take at most a quarter of its free memory, else in main memory. What was chosen is logged.

    Attributes:
        train_set: Training images and labels.
        eval_set: Those of validation.
        test_set: Those of test; those of validation where a subclass sets no others.

    Raises:
        ValueError: If an argument is out of range, or `keep_on` and `num_workers` exclude each other.
    """

    train_set: InMemoryImages
    eval_set: InMemoryImages
    test_set: InMemoryImages

    def __init__(
        self,
        batch_size: int,
        num_workers: int,
        seed: int,
        repeats: int = 1,
        total_batch_size: int | None = None,
        keep_on: KeepOn = "auto",
    ) -> None:
        super().__init__(batch_size, num_workers, seed, repeats, total_batch_size)
        check_choice("keep_on", keep_on, get_args(KeepOn))
        if keep_on == "device" and num_workers > 0:
            raise ValueError(
                f"num_workers: got {num_workers}, expected 0 with keep_on='device': workers read on the CPU"
            )
        self.keep_on = keep_on
        self._place = torch.device("cpu")

    def setup(self, stage: str) -> None:
        """Take the images to where they stay."""
        if stage == "fit":
            sets = [self.train_set, self.eval_set]
        else:
            sets = [self.test_set if stage == "test" else self.eval_set]
        for images in sets:
            # what is elsewhere has been checked before it went there
            if images.device.type == "cpu":
                images.check_labels(self.num_classes)
        device = self.trainer.strategy.root_device  # type: ignore[union-attr]
        if device.type == "cpu" or all(images.device == device for images in sets):
            place = device
        else:
            place = device if self._belongs_on(device, sum(images.nbytes for images in sets)) else torch.device("cpu")
            count, size = sum(map(len, sets)), sum(images.nbytes for images in sets) / 2**20
            rank_zero_info(f"data: {count} images of {size:.0f} MiB stay on {place} (keep_on={self.keep_on!r})")
        self._place = place
        for images in sets:
            images.to(place)

    def _belongs_on(self, device: torch.device, num_bytes: int) -> bool:
        if self.keep_on != "auto":
            return self.keep_on == "device"
        if device.type != "cuda" or self.num_workers > 0:
            return False
        free, _ = torch.cuda.mem_get_info(device)
        return num_bytes <= AUTO_SHARE * free

    def _seeded_train_set(self) -> Dataset:
        return self.train_set

    def _loader_options(self) -> dict[str, Any]:
        options = {**super()._loader_options(), "collate_fn": collate_batch}
        if self._place.type != "cpu":
            # nothing to take there
            options["pin_memory"] = False
        return options
