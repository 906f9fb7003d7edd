"""Handwritten digits: a real labelled image set that needs no download."""

import torch

from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.in_memory import InMemoryDataModule, InMemoryImages, KeepOn

_NUM_TEST = 360  # a fifth of the 1797 images
_WHITE = 16  # pixels are 0..16 in scikit-learn


class DigitsDataModule(InMemoryDataModule):
    """`sklearn.datasets.load_digits`: 1797 grey 8x8 images of digits, 1437 to train and 360 to test, in memory.

    The split is fixed and stratified; `seed` does not change it. Validation and test use the same 360 images, as
    there are too few for a third part: an accuracy that was used to choose anything is no test result.

    There is no augmentation: the digits fill their 8x8 pixels, so shifts and crops would cut them. Images are
    normalised with mean and std 0.5, as timm's ViTs are by default.

    Args:
        batch_size: Images per batch in each process.
        num_workers: Worker processes of each loader; 0 is fastest for data in memory.
        seed: Seed of the training order.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches; takes the place of
            `batch_size`.
        keep_on: Where the images stay: "cpu", "device" or "auto" (see `InMemoryDataModule`).

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If an argument is out of range.
    """

    in_chans = 1
    img_size = 8

    def __init__(
        self,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        total_batch_size: int | None = None,
        keep_on: KeepOn = "auto",
    ) -> None:
        super().__init__(batch_size, num_workers, seed, total_batch_size=total_batch_size, keep_on=keep_on)
        self.class_names = [str(digit) for digit in range(10)]
        self.batch_augment = BatchAugment(mean=[0.5], std=[0.5], num_classes=self.num_classes)
        self.train_set, self.eval_set = load_digits_split()


def load_digits_split() -> tuple[InMemoryImages, InMemoryImages]:
    """The fixed training and test set of (image uint8 (1, 8, 8), label int64).

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'mhc-vision[demo]'") from error
    digits = load_digits()
    images = torch.from_numpy(digits.images).unsqueeze(1)  # (1797, 1, 8, 8)
    images = (images * (255 / _WHITE)).round().to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(range(len(labels)), test_size=_NUM_TEST, stratify=labels, random_state=0)
    return InMemoryImages(images[train], labels[train]), InMemoryImages(images[test], labels[test])
