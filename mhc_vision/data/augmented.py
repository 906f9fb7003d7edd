"""The options that all datasets of natural images share: crops, augmentation, normalisation."""

import copy
from typing import Literal

from torch.utils.data import Dataset

from mhc_vision.checks import check_choice
from mhc_vision.data.batch_augment import BatchAugment, check_batch_augment
from mhc_vision.data.broken_images import SkipBroken
from mhc_vision.data.datamodule import ImageDataModule
from mhc_vision.data.transforms import eval_transform, train_transform


class AugmentedDataModule(ImageDataModule):
    """Base of the datasets of RGB images of any size, which are cropped and augmented.

    A subclass makes its datasets with `to_train` and `to_eval`, and hands them to `use`.

    Args:
        batch_size: Images per batch in each process.
        num_workers: Worker processes of each loader, 0 to load in the main process.
        img_size: Height and width that the model sees, in pixels.
        crop_pct: Part of the resized image's shorter side that the centre crop of evaluation covers.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        mean: Mean of red, green and blue, for pixels in 0..1.
        std: Their standard deviation.
        train_scale: Smallest and largest part of an image's area that a training crop covers.
        hflip: Probability of a horizontal flip in training.
        randaugment_ops: Number of RandAugment operations per image, 0 for none.
        randaugment_magnitude: Their strength, 0 to 30.
        three_augment: One of grey, solarised and blurred for each image (DeiT-III), in place of RandAugment.
        color_jitter: Largest relative change of brightness, contrast and saturation, 0 for none.
        erase: Probability that a random rectangle of a training image becomes noise.
        repeats: How often each sample comes in a row, differently augmented (repeated augmentation); 1 for once.
        mixup: Alpha of Mixup's Beta distribution, 0 for none.
        cutmix: The same for CutMix. If both are given, each batch gets one of them at random.
        seed: Seed of the training order.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches; takes the place of
            `batch_size`.
        broken: What a training image that cannot be decoded does: `"raise"` an error, or `"skip"`: a warning names it,
            and the next one takes its place. In evaluation it is an error always, as it would change the figures.

    Attributes:
        to_train: From uint8 (3, H, W) of any size to a training image.
        to_eval: The same for evaluation.

    Raises:
        ValueError: If an argument is out of range.
    """

    in_chans = 3

    def __init__(
        self,
        batch_size: int = 256,
        num_workers: int = 8,
        img_size: int = 224,
        crop_pct: float = 0.9,
        interpolation: str = "bicubic",
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        train_scale: tuple[float, float] = (0.08, 1.0),
        hflip: float = 0.5,
        randaugment_ops: int = 0,
        randaugment_magnitude: int = 10,
        three_augment: bool = False,
        color_jitter: float = 0.0,
        erase: float = 0.0,
        repeats: int = 1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        seed: int = 0,
        total_batch_size: int | None = None,
        broken: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(batch_size, num_workers, seed, repeats, total_batch_size)
        check_choice("broken", broken, ("raise", "skip"))
        check_batch_augment(mean, std, mixup, cutmix, erase, in_chans=self.in_chans)
        self.to_train = train_transform(
            img_size,
            interpolation,
            train_scale,
            hflip,
            randaugment_ops,
            randaugment_magnitude,
            three_augment,
            color_jitter,
        )
        self.to_eval = eval_transform(img_size, interpolation, crop_pct)
        self.img_size = img_size
        self.crop_pct, self.interpolation = crop_pct, interpolation
        self.broken = broken
        self._on_device = {"mean": mean, "std": std, "mixup": mixup, "cutmix": cutmix, "erase": erase}

    def use(
        self, class_names: list[str], train_set: Dataset, eval_set: Dataset, test_set: Dataset | None = None
    ) -> None:
        """Take these datasets, of (image uint8 (3, img_size, img_size), label).

        Args:
            class_names: Name of each class, in the order of the labels.
            train_set: Training samples; raises ValueError for one that cannot be decoded.
            eval_set: Samples of validation.
            test_set: Samples of test; `None` for those of validation.
        """
        self.class_names = class_names
        self.batch_augment = BatchAugment(num_classes=len(class_names), **self._on_device)  # type: ignore[arg-type]
        self.train_set = SkipBroken(train_set) if self.broken == "skip" else train_set
        self.eval_set = eval_set
        self.test_set = eval_set if test_set is None else test_set

    def _unaugmented_train_set(self) -> Dataset:
        samples = self.train_set.dataset if isinstance(self.train_set, SkipBroken) else self.train_set
        if not hasattr(samples, "transform"):
            raise ValueError(f"data: got {type(self).__name__}, expected training images with a `transform` to replace")
        unaugmented = copy.copy(samples)
        unaugmented.transform = self.to_eval
        return unaugmented
