"""Noise in place of images: to see a recipe run without its dataset."""

import torch

from mhc_vision.checks import check_whole_number
from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.class_names import number_classes
from mhc_vision.data.in_memory import InMemoryDataModule, InMemoryImages, KeepOn


class FakeDataModule(InMemoryDataModule):
    """Random RGB images with random labels, in memory; the same for each seed.

    Args:
        batch_size: Images per batch in each process.
        num_workers: Worker processes of each loader; 0 is fastest for data in memory.
        img_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        num_images: Images to train on; a quarter as many to evaluate on.
        hflip: Probability of a horizontal flip in training.
        crop_padding: Pixels of padding from which training images are cropped back at random, 0 for none.
        erase: Probability that a random rectangle of a training image becomes noise.
        repeats: How often each sample comes in a row; 1 for once.
        mixup: Alpha of Mixup's Beta distribution, 0 for none.
        cutmix: The same for CutMix.
        seed: Seed of the images and of the training order.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches; takes the place of
            `batch_size`.
        keep_on: Where the images stay: "cpu", "device" or "auto" (see `InMemoryDataModule`).

    Raises:
        ValueError: If an argument is out of range.
    """

    in_chans = 3

    def __init__(
        self,
        batch_size: int = 4,
        num_workers: int = 0,
        img_size: int = 32,
        num_classes: int = 10,
        num_images: int = 256,
        erase: float = 0.0,
        repeats: int = 1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        seed: int = 0,
        hflip: float = 0.0,
        crop_padding: int = 0,
        total_batch_size: int | None = None,
        keep_on: KeepOn = "auto",
    ) -> None:
        super().__init__(batch_size, num_workers, seed, repeats, total_batch_size, keep_on)
        for name, value in (("img_size", img_size), ("num_classes", num_classes), ("num_images", num_images)):
            check_whole_number(name, value, at_least=1)
        self.img_size = img_size
        self.class_names = number_classes(num_classes)
        self.batch_augment = BatchAugment([0.5] * 3, [0.5] * 3, num_classes, mixup, cutmix, erase, crop_padding, hflip)
        generator = torch.Generator().manual_seed(seed)
        self.train_set, self.eval_set = (
            InMemoryImages(
                torch.randint(256, (count, self.in_chans, img_size, img_size), dtype=torch.uint8, generator=generator),
                torch.randint(num_classes, (count,), generator=generator),
            )
            for count in (num_images, max(1, num_images // 4))
        )
