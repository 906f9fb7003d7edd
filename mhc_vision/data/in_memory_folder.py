"""Class folders of small images, decoded once into memory."""

import time
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info

from mhc_vision.checks import check_number, check_whole_number
from mhc_vision.data.batch_augment import BatchAugment, check_batch_augment
from mhc_vision.data.datamodule import Metric, checked_metric
from mhc_vision.data.decode import decode_all
from mhc_vision.data.division import balanced_subset
from mhc_vision.data.image_folder import ClassFolderImages, find_classes, hold_out_of, list_images
from mhc_vision.data.in_memory import InMemoryDataModule, InMemoryImages, KeepOn
from mhc_vision.data.machine import check_memory, local_processes
from mhc_vision.data.transforms import eval_transform


class InMemoryFolderDataModule(InMemoryDataModule):
    """Images in `root/train/<class>/` and `root/val/<class>/` for datasets that fit in memory, such as CIFAR.

    Files are listed at construction and decoded when they are first needed, in each process: resized and centre-cropped
    to uint8 (3, img_size, img_size). Training images are then cropped and flipped as batches on the device. Where
    training needs crops of different scale, or images do not fit, there is `ImageFolderDataModule`.

    Args:
        root: Folder with the two splits.
        batch_size: Images per batch in each process.
        img_size: Height and width of the images in memory, and of what the model sees, in pixels.
        crop_pct: Part of the resized image's shorter side that the centre crop covers.
        interpolation: Of resizing, "bilinear" or "bicubic", with antialiasing.
        mean: Mean of red, green and blue, for pixels in 0..1.
        std: Their standard deviation.
        hflip: Probability of a horizontal flip in training.
        crop_padding: Pixels of padding from which training images are cropped back at random, 0 for none.
        erase: Probability that a random rectangle of a training image becomes noise.
        repeats: How often each sample comes in a row, differently augmented (repeated augmentation); 1 for once.
        mixup: Alpha of Mixup's Beta distribution, 0 for none.
        cutmix: The same for CutMix. If both are given, each batch gets one of them at random.
        seed: Seed of the training order.
        train_split: Name of the folder to train on.
        val_split: Name of the folder for validation; `None` to hold a share of the training images out, drawn class by
            class and always the same for the same files (see `hold_out`).
        val_share: Part of each class that is held out, where `val_split` is `None`.
        max_train_images: Train on so many images only: of each class the first ones by file name, equally many where
            there are enough (see `balanced_subset`). The seed does not change which.
        max_val_images: The same for validation, and for test where it has the same folder.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches; takes the place of
            `batch_size`.
        keep_on: Where the images stay: "cpu", "device" or "auto" (see `InMemoryDataModule`).
        test_split: Name of the folder for test; `None` for the images of validation.
        classes: Take these class folders only, with labels in this order; `None` takes all, in alphabetical order.
        metric: By which models are compared: `"top1"`, or `"mean_per_class"`, the mean of the classes' accuracies.
        exif_orientation: Turn photos upright, as in `ImageFolderDataModule`.

    Raises:
        ValueError: If an argument is out of range, the folders are not laid out as above, or the images need more
            memory than there is, in all processes on this machine together. That is checked again when the trainer
            starts, which knows them. Broken images are an error, with their names, when they are decoded.
    """

    in_chans = 3

    def __init__(
        self,
        root: str,
        batch_size: int = 128,
        img_size: int = 32,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        hflip: float = 0.5,
        crop_padding: int = 0,
        erase: float = 0.0,
        repeats: int = 1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        seed: int = 0,
        train_split: str = "train",
        val_split: str | None = "val",
        max_train_images: int | None = None,
        max_val_images: int | None = None,
        total_batch_size: int | None = None,
        keep_on: KeepOn = "auto",
        test_split: str | None = None,
        classes: list[str] | None = None,
        metric: Metric = "top1",
        exif_orientation: bool = False,
        val_share: float = 0.1,
    ) -> None:
        super().__init__(
            batch_size, num_workers=0, seed=seed, repeats=repeats, total_batch_size=total_batch_size, keep_on=keep_on
        )
        check_batch_augment(mean, std, mixup, cutmix, erase, crop_padding, hflip, in_chans=self.in_chans)
        for name, count in (("max_train_images", max_train_images), ("max_val_images", max_val_images)):
            if count is not None:
                check_whole_number(name, count, at_least=1)
        self._transform = eval_transform(img_size, interpolation, crop_pct)
        self.img_size = img_size
        self.crop_pct, self.interpolation = crop_pct, interpolation
        self.metric = checked_metric(metric)
        self.exif_orientation = exif_orientation
        self.class_names = find_classes(Path(root), train_split, val_split, test_split, classes)
        self.batch_augment = BatchAugment(mean, std, self.num_classes, mixup, cutmix, erase, crop_padding, hflip)
        check_number("val_share", val_share, above=0, below=1)
        train = self._list(Path(root) / train_split)
        if val_split is None:
            kept, held_out = hold_out_of(train, val_share, root)
            train, val = train.take(kept, self._transform), train.take(held_out, self._transform)
        else:
            val = self._list(Path(root) / val_split)
        self._train_files = self._choose(train, "max_train_images", max_train_images)
        self._val_files = self._choose(val, "max_val_images", max_val_images)
        self._test_files = None if test_split is None else self._list(Path(root) / test_split).samples
        self._check_memory()

    def prepare_data(self) -> None:
        """Check the memory once more, in one process of each machine and before any of them takes it.

        Raises:
            ValueError: If the copies of all processes do not fit.
        """
        self._check_memory()

    @property
    def num_train(self) -> int:
        """Number of training samples; decodes nothing."""
        return len(self._train_files)

    @cached_property
    def train_set(self) -> InMemoryImages:  # type: ignore[override]
        """Training images and labels; decodes the files when first asked for."""
        return self._decode(self._train_files)

    @cached_property
    def eval_set(self) -> InMemoryImages:  # type: ignore[override]
        """Images and labels of validation; decodes the files when first asked for."""
        return self._decode(self._val_files)

    @cached_property
    def test_set(self) -> InMemoryImages:  # type: ignore[override]
        """Images and labels of test; decodes the files when first asked for."""
        return self.eval_set if self._test_files is None else self._decode(self._test_files)

    def _list(self, folder: Path) -> ClassFolderImages:
        return list_images(folder, self._transform, self.class_names)

    def _choose(self, images: ClassFolderImages, name: str, count: int | None) -> list[tuple[str, int]]:
        """Path and label of each image, or of a part of them."""
        if count is None:
            return images.samples
        if count < self.num_classes:
            raise ValueError(f"{name}: got {count}, expected at least 1 for each of {self.num_classes} classes")
        return [images.samples[index] for index in balanced_subset(images.targets, count)]

    def _check_memory(self) -> None:
        sets = {"train_set": self._train_files, "eval_set": self._val_files, "test_set": self._test_files or []}
        # what is decoded has its memory
        count = sum(len(files) for name, files in sets.items() if name not in vars(self))
        check_memory(count, self.in_chans, self.img_size, local_processes(self.trainer))

    def _decode(self, files: list[tuple[str, int]]) -> InMemoryImages:
        began = time.perf_counter()
        paths = [path for path, _ in files]
        processes = local_processes(self.trainer)
        images = decode_all(paths, self._transform, self.img_size, processes, bool(self.exif_orientation))
        rank_zero_info(f"data: {len(images)} images decoded in {time.perf_counter() - began:.1f} s")
        return InMemoryImages(images, torch.tensor([label for _, label in files]))
