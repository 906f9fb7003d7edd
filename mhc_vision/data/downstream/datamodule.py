"""The datasets that pretrained models are fine-tuned on, by their official protocols."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from mhc_vision.checks import check_choice, check_number, check_whole_number
from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.data.division import balanced_subset, draw_per_class, hold_out
from mhc_vision.data.downstream.catalog import find_set
from mhc_vision.data.downstream.images import DecodedImages, LabelledImages, TransformedImages
from mhc_vision.data.downstream.open import open_splits
from mhc_vision.data.downstream.spec import TorchvisionSet
from mhc_vision.data.machine import local_processes, require_memory

ValidateOn = Literal["val", "test"]


class DownstreamDataModule(AugmentedDataModule):
    """One of torchvision's classification datasets, with its official splits, class names and metric.

    Where there is no official validation split, a share of the training images of each class is held out, always the
    same ones. Undivided datasets are divided as in their papers: published partitions, or a fixed number of training
    images per class, drawn at random but always the same; else a share is the test set.

    Hyper-parameters are chosen with `validate_on="val"`, which does not touch the test images. With `"test"` the
    protocol is the one of published results: all that is not test trains, and validation reads the test images, so
    that the accuracy of the last epoch counts and not that of the best one.

    Args:
        dataset: Name of the dataset, a key of `mhc_vision.data.downstream.catalog.SETS`.
        root: The folder it is in, laid out as torchvision does, or shall be fetched to.
        download: Fetch it where it is missing. What is there is not written over.
        validate_on: `"val"`, or `"test"` as above.
        val_share: Part of each class that is held out to validate on, where there is no official split.
        test_share: Part of each class that is the test set, where there is neither split nor protocol.
        complete: Refuse a copy with fewer images than there are officially.
        in_memory: Keep all images decoded, at their own size, in each process. `None` does so where they are small;
            not with `broken="skip"`.
        max_train_images: Train on so many images only: of each class the first ones, equally many where there are
            enough (see `balanced_subset`). The seed does not change which.
        augmentation: The options of `AugmentedDataModule`.

    Attributes:
        metric: By which the dataset's papers compare, `"top1"` or `"mean_per_class"`.

    Raises:
        ImportError: If a package that the dataset needs is missing.
        ValueError: If an argument is out of range; if the dataset is unknown, cannot be fetched, is damaged or only
            partly there; or if its images need more memory than there is, in all processes on this machine together.
            That is checked again when the trainer starts, which knows them.
    """

    def __init__(
        self,
        dataset: str,
        root: str,
        download: bool = True,
        validate_on: ValidateOn = "val",
        val_share: float = 0.1,
        test_share: float = 0.2,
        complete: bool = True,
        in_memory: bool | None = None,
        max_train_images: int | None = None,
        **augmentation: Any,
    ) -> None:
        super().__init__(**augmentation)
        spec = find_set(dataset)
        check_choice("validate_on", validate_on, get_args(ValidateOn))
        for name, share in (("val_share", val_share), ("test_share", test_share)):
            check_number(name, share, above=0, below=1)
        if max_train_images is not None:
            check_whole_number("max_train_images", max_train_images, at_least=1)
        if in_memory and self.broken == "skip":
            raise ValueError(
                "broken: got 'skip', expected 'raise' with in_memory=True, which decodes all images at the start"
            )
        class_names, splits = open_splits(dataset, spec, Path(root).expanduser(), download, complete)
        if max_train_images is not None and max_train_images < len(class_names):
            raise ValueError(
                f"max_train_images: got {max_train_images}, expected at least 1 for each of {len(class_names)} classes"
            )
        self.metric = spec.metric
        self.validate_on = validate_on
        train, val, test = divide(spec, splits, validate_on, val_share, test_share)
        if max_train_images is not None:
            train = train.take(balanced_subset(train.labels, max_train_images))
        if in_memory is None:
            in_memory = spec.in_memory and self.broken == "raise"
        parts: dict[str, Dataset] = {"train": train.images, "val": val.images, "test": test.images}
        self._decoded: dict[str, DecodedImages] = {}
        if in_memory:
            self._decoded = {name: DecodedImages(images) for name, images in parts.items()}
            if val is test:
                self._decoded["val"] = self._decoded["test"]
            parts.update(self._decoded)
        self.use(
            class_names,
            TransformedImages(parts["train"], self.to_train),
            TransformedImages(parts["val"], self.to_eval),
            TransformedImages(parts["test"], self.to_eval),
        )
        self._check_memory()

    def prepare_data(self) -> None:
        """Check the memory once more, in one process of each machine and before any of them takes it.

        Raises:
            ValueError: If the copies of all processes do not fit.
        """
        self._check_memory()

    def train_dataloader(self) -> DataLoader:
        """Shuffled whole batches, equally many in each process; decodes the images where they are kept in memory.

        Raises:
            ValueError: If the training samples do not fill one batch in every process.
        """
        self._decode("train")
        return super().train_dataloader()

    def val_dataloader(self) -> DataLoader:
        """Every validation sample exactly once over all processes, in a fixed order."""
        self._decode("val")
        return super().val_dataloader()

    def test_dataloader(self) -> DataLoader:
        """Every test sample exactly once over all processes, in a fixed order."""
        self._decode("test")
        return super().test_dataloader()

    def predict_dataloader(self) -> list[DataLoader]:
        """As in `ImageDataModule`, test images that validate come once; decodes the images that are kept in memory."""
        # here, not in each worker for itself
        self._decode("train")
        loaders = super().predict_dataloader()
        return loaders[:2] if self.validate_on == "test" else loaders

    def _decode(self, part: str) -> None:
        if part not in self._decoded or self._decoded[part].is_decoded:
            return
        began = time.perf_counter()
        self._decoded[part].decode(local_processes(self.trainer))
        count, seconds = len(self._decoded[part]), time.perf_counter() - began
        rank_zero_info(f"data: {count} images to {part} decoded in {seconds:.1f} s")

    def _check_memory(self) -> None:
        # what is decoded has its memory; two parts may be the same
        parts = {id(images): images for images in self._decoded.values() if not images.is_decoded}.values()
        if parts:
            require_memory(
                sum(images.estimated_bytes() for images in parts),
                local_processes(self.trainer),
                what=f"in_memory: {sum(map(len, parts))} images at their own size",
                advice="set in_memory=False or max_train_images",
            )


def divide(
    spec: TorchvisionSet,
    splits: Mapping[str, LabelledImages],
    validate_on: ValidateOn,
    val_share: float,
    test_share: float,
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """The images to train, to validate and to test on.

    Args:
        spec: The dataset.
        splits: Its splits, `train`, perhaps `val`, and `test`, or `all`.
        validate_on: `"val"` for a part of the training images; `"test"` to train on all of them and validate on the
            test images.
        val_share: Part of each class to validate on, where there is no split `val`.
        test_share: Part of each class to test on, where there is neither split nor protocol.
    """
    if "all" in splits:
        images = splits["all"]
        if spec.train_per_class is not None:
            train_indices, test_indices = draw_per_class(images.labels, spec.train_per_class)
        else:
            train_indices, test_indices = hold_out(images.labels, test_share, images.groups)
        train, test = images.take(train_indices), images.take(test_indices)
    else:
        train, test = splits["train"], splits["test"]
    if validate_on == "test":
        return (train.join(splits["val"]) if "val" in splits else train), test, test
    if "val" in splits:
        return train, splits["val"], test
    train_indices, val_indices = hold_out(train.labels, val_share, train.groups)
    return train.take(train_indices), train.take(val_indices), test
