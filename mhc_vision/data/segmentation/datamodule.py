"""The data module of semantic segmentation."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mhc_vision.checks import check_choice, check_number, check_numbers, check_whole_number
from mhc_vision.data.batch_augment import BatchAugment, check_batch_augment
from mhc_vision.data.datamodule import ImageDataModule
from mhc_vision.data.segmentation.masks import MaskedImages
from mhc_vision.data.segmentation.sets import Pairs, open_pairs
from mhc_vision.data.transforms import INTERPOLATIONS
from mhc_vision.segmentation_scores import IGNORED


class SegmentationDataModule(ImageDataModule):
    """Images with a class in each pixel: Pascal VOC, SBD, Oxford-IIIT Pet, Cityscapes, ADE20K, or a folder of pairs.

    A training image is resized at random, cropped, flipped and jittered in colour, its mask with it; what a crop lacks
    is of no class. In evaluation the shorter side becomes `resize_to`, the mask stays as it is, and batches are of one
    image, as sizes differ.

    Args:
        dataset: `voc`, `sbd`, `oxford_iiit_pet`, `cityscapes`, `ade20k`, or `folder` for
            `root/{train,val}/{images,masks}/`, perhaps `root/test/`, where a mask has the name of its image and in each
            pixel the number of a class from 0, or 255 for none.
        root: The folder it is in, or, of torchvision's, is fetched to.
        download: Fetch what is missing and can be fetched.
        classes: Of a folder, their names; `None` for the lines of `root/classes.txt`.
        batch_size: Training images per batch in each process.
        num_workers: Worker processes of each loader, 0 to load in the main process.
        img_size: Side of a training crop and of an evaluation's windows, in pixels.
        resize_to: Shorter side of an image in evaluation, in pixels, at least `img_size`; `None` for that.
        min_scale: In training the shorter side is at least so many times `resize_to`.
        max_scale: And at most so many times.
        hflip: Probability of a horizontal flip in training.
        color_jitter: Largest relative change of brightness, contrast and saturation in training, 0 for none.
        mean: Mean of red, green and blue, for pixels in 0..1.
        std: Their standard deviation.
        max_train_images: Train on the first so many images only.
        seed: Seed of the training order.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches; takes the place of
            `batch_size`.

    Raises:
        ValueError: If an argument is out of range, or the dataset is unknown, not there or not whole. A mask that
            cannot be read, or not with these classes, is found when it is read, and its name is in the error.
    """

    in_chans = 3
    interpolation = "bilinear"
    exif_orientation = False
    metric = "mean_iou"

    def __init__(
        self,
        dataset: str,
        root: str,
        download: bool = True,
        classes: list[str] | None = None,
        batch_size: int = 16,
        num_workers: int = 8,
        img_size: int = 512,
        resize_to: int | None = None,
        min_scale: float = 0.5,
        max_scale: float = 2.0,
        hflip: float = 0.5,
        color_jitter: float = 0.0,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        max_train_images: int | None = None,
        seed: int = 0,
        total_batch_size: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, total_batch_size=total_batch_size)
        check_batch_augment(mean, std, 0.0, 0.0, 0.0, in_chans=self.in_chans)
        check_whole_number("img_size", img_size, at_least=1)
        if resize_to is not None:
            check_whole_number("resize_to", resize_to, at_least=img_size)
        short_side = resize_to or img_size
        check_numbers("min_scale, max_scale", (min_scale, max_scale), above=0)
        if min_scale > max_scale:
            raise ValueError(f"min_scale: got {min_scale}, expected at most max_scale, {max_scale}")
        check_number("hflip", hflip, at_least=0, at_most=1)
        check_number("color_jitter", color_jitter, at_least=0)
        if max_train_images is not None:
            check_whole_number("max_train_images", max_train_images, at_least=1)
        self.img_size = img_size
        # timm's name for it
        self.crop_pct = img_size / short_side
        values, splits = open_pairs(dataset, Path(root).expanduser(), download, classes)
        self.class_names = list(values.class_names)
        self.batch_augment = BatchAugment(mean, std, len(self.class_names))

        def samples(pairs: Pairs, transform: Any) -> MaskedImages:
            return MaskedImages(*pairs, values, transform)

        images, masks = splits["train"]
        to_train = train_transform(
            img_size, (min_scale * short_side, max_scale * short_side), hflip, color_jitter, mean
        )
        self.train_set = samples((images[:max_train_images], masks[:max_train_images]), to_train)
        to_eval = EvalTransform(short_side, self.interpolation)
        self.eval_set = samples(splits["val"], to_eval)
        self.test_set = samples(splits["test"], to_eval) if "test" in splits else self.eval_set

    def _evaluation_options(self) -> dict[str, Any]:
        return {**self._loader_options(), "batch_size": 1}


def train_transform(
    img_size: int,
    short_sides: tuple[float, float],
    hflip: float,
    color_jitter: float,
    mean: tuple[float, float, float],
) -> v2.Compose:
    """Random size, crop, flip and colour of an image with its mask; see `SegmentationDataModule`."""
    smallest, largest = (max(1, round(side)) for side in short_sides)
    fill = {tv_tensors.Image: [round(255 * value) for value in mean], tv_tensors.Mask: IGNORED}
    steps: list[v2.Transform] = [
        v2.RandomShortestSize(list(range(smallest, largest + 1)), antialias=True),
        v2.RandomCrop(img_size, pad_if_needed=True, fill=fill),
        v2.RandomHorizontalFlip(hflip),
    ]
    if color_jitter > 0:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    return v2.Compose([*steps, v2.ToPureTensor()])


class EvalTransform:
    """Resizes an image, and leaves its mask.

    Args:
        short_side: Length of the shorter side, in pixels.
        interpolation: `bilinear` or `bicubic`, with antialiasing.
    """

    def __init__(self, short_side: int, interpolation: str) -> None:
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        self.resize = v2.Resize(short_side, INTERPOLATIONS[interpolation], antialias=True)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image and mask as plain tensors."""
        return self.resize(image).as_subclass(Tensor), mask.as_subclass(Tensor)
