"""ImageNet and every other dataset in its folder layout."""

from pathlib import Path
from typing import Literal

from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.datamodule import ImageDataModule
from mhc_vision.data.decode import DECODABLE_SUFFIXES, decode_rgb
from mhc_vision.data.skip_broken import SkipBroken
from mhc_vision.data.transforms import eval_transform, train_transform

_NUM_NAMED = 5  # classes or folders that an error message lists


class ImageFolderDataModule(ImageDataModule):
    """Images in `root/train/<class>/` and `root/val/<class>/`; the folder names are the class names.

    Files are JPEG, PNG or WebP (see `decode_rgb`). All files are listed at construction, so a wrong layout is found
    before training starts; a broken image is found when it is read, and its name is in the error. Test uses the
    images of validation.

    Args:
        root: Folder with the two splits.
        batch_size: Images a batch in each process.
        num_workers: Worker processes of each loader, 0 to load in the main process.
        img_size: Height and width that the model sees, in pixels.
        crop_pct: Part of the resized image's shorter side that the centre crop of evaluation covers.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        mean: Mean of red, green and blue, for pixels in 0..1.
        std: Their standard deviation.
        train_scale: Smallest and largest part of an image's area that a training crop covers.
        hflip: Probability of a horizontal flip in training.
        randaugment_ops: Number of RandAugment operations an image, 0 for none.
        randaugment_magnitude: Their strength, 0 to 30.
        three_augment: One of grey, solarised and blurred for each image (DeiT-III), in place of RandAugment.
        color_jitter: Largest relative change of brightness, contrast and saturation, 0 for none.
        erase: Probability that a random rectangle of a training image becomes noise.
        repeats: How often each sample comes in a row, differently augmented (repeated augmentation); 1 for once.
        mixup: Alpha of Mixup's Beta distribution, 0 for none.
        cutmix: The same for CutMix. If both are given, each batch gets one of them at random.
        seed: Seed of the training order.
        broken: What a training image that cannot be decoded does: `"raise"` an error, or `"skip"`: a warning names it,
            and the next one takes its place. In evaluation it is an error always, as it would change the figures.
        train_split: Name of the folder to train on.
        val_split: Name of the folder for validation and test.
        total_batch_size: Images of an optimiser step, over all processes and accumulated batches; takes the place of
            `batch_size`.

    Raises:
        ValueError: If an argument is out of range or the folders are not laid out as above.
    """

    in_chans = 3

    def __init__(
        self,
        root: str,
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
        broken: Literal["raise", "skip"] = "raise",
        train_split: str = "train",
        val_split: str = "val",
        total_batch_size: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, repeats, total_batch_size)
        if len(mean) != self.in_chans:
            raise ValueError(f"mean must have {self.in_chans} values, got {mean}")
        to_train = train_transform(
            img_size,
            interpolation,
            train_scale,
            hflip,
            randaugment_ops,
            randaugment_magnitude,
            three_augment,
            color_jitter,
        )
        to_eval = eval_transform(img_size, interpolation, crop_pct)
        self.img_size = img_size
        self.crop_pct, self.interpolation = crop_pct, interpolation
        self.class_names = find_classes(Path(root), train_split, val_split)
        self.batch_augment = BatchAugment(mean, std, self.num_classes, mixup, cutmix, erase)
        if broken not in ("raise", "skip"):
            raise ValueError(f"broken must be 'raise' or 'skip', got {broken!r}")
        train_set = list_images(Path(root) / train_split, to_train)
        self.train_set = SkipBroken(train_set) if broken == "skip" else train_set
        self.eval_set = list_images(Path(root) / val_split, to_eval)


def find_classes(root: Path, train_split: str = "train", val_split: str = "val") -> list[str]:
    """Sorted names of the class folders, which must be the same in both splits.

    Args:
        root: Folder with the splits.
        train_split: Name of the folder to train on.
        val_split: Name of the folder for validation and test.

    Raises:
        ValueError: If a folder is missing, has no class folders, or the two differ.
    """
    for name, split in (("train_split", train_split), ("val_split", val_split)):
        if not split:
            raise ValueError(f"{name} must be the name of a folder in {root}, got {split!r}")
    layout = f"expected\n    {root}/{train_split}/<class name>/*.jpg\n    {root}/{val_split}/<class name>/*.jpg"
    if not root.is_dir():
        raise ValueError(f"root: {root} is {'not a folder' if root.exists() else 'missing'}; {layout}")
    classes: dict[str, set[str]] = {}
    for split in (train_split, val_split):
        if not (root / split).is_dir():
            raise ValueError(f"root: {root} has no folder {split}; {layout}")
        classes[split] = {entry.name for entry in (root / split).iterdir() if entry.is_dir()}
        if not classes[split]:
            raise ValueError(f"root: {root / split} has no class folders; {layout}")
    for one, other in ((train_split, val_split), (val_split, train_split)):
        if extra := classes[one] - classes[other]:
            raise ValueError(f"root: {_first(extra)} in {root / one}, but not in {root / other}; {layout}")
    return sorted(classes[train_split])


def list_images(folder: Path, transform: v2.Transform) -> ImageFolder:
    """The images in the class folders of `folder`, decoded by `decode_rgb`.

    Args:
        folder: Folder with one folder a class.
        transform: From uint8 (3, H, W) of any size to the model's size.

    Raises:
        ValueError: If a class has no images or a file has a format that cannot be decoded.
    """
    dataset = ImageFolder(folder, transform, loader=decode_rgb, allow_empty=True)
    empty = set(range(len(dataset.classes))) - set(dataset.targets)
    if empty:
        raise ValueError(f"root: no images in {_first({str(folder / dataset.classes[label]) for label in empty})}")
    for path, _ in dataset.samples:
        if not path.lower().endswith(DECODABLE_SUFFIXES):
            raise ValueError(f"root: {path} is none of {', '.join(DECODABLE_SUFFIXES)}: convert it or take it away")
    return dataset


def _first(names: set[str]) -> str:
    """The first few of `names` and how many more there are."""
    shown = ", ".join(sorted(names)[:_NUM_NAMED])
    return shown if len(names) <= _NUM_NAMED else f"{shown} and {len(names) - _NUM_NAMED} more"
