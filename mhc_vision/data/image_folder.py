"""ImageNet and every other dataset in its folder layout."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from mhc_vision.checks import check_number, first_few
from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.data.datamodule import Metric, checked_metric
from mhc_vision.data.decode import decode_rgb
from mhc_vision.data.division import hold_out
from mhc_vision.data.folders import class_folders, list_class_images


class ImageFolderDataModule(AugmentedDataModule):
    """Images in `root/train/<class>/` and `root/val/<class>/`; the folder names are the class names.

    Files are JPEG, PNG or WebP (see `decode_rgb`). All files are listed at construction, so a wrong layout is found
    before training starts; a broken image is found when it is read, and its name is in the error.

    Args:
        root: Folder with the two splits.
        train_split: Name of the folder to train on; `"."` where the class folders are in `root` itself.
        val_split: Name of the folder for validation; `None` to hold a share of the training images out, drawn class by
            class and always the same for the same files (see `hold_out`).
        test_split: Name of the folder for test; `None` for the images of validation.
        classes: Take these class folders only, with labels in this order; `None` takes all, in alphabetical order.
        metric: By which models are compared: `"top1"`, or `"mean_per_class"`, the mean of the classes' accuracies.
        val_share: Part of each class that is held out, where `val_split` is `None`.
        exif_orientation: Turn photos upright by their EXIF orientation, in training and evaluation; what predicts with
            the model does the same. Off, as everywhere on ImageNet: published accuracies are measured without.
        augmentation: The options of `AugmentedDataModule`.

    Raises:
        ValueError: If an argument is out of range or the folders are not laid out as above.
    """

    def __init__(
        self,
        root: str,
        train_split: str = "train",
        val_split: str | None = "val",
        test_split: str | None = None,
        classes: list[str] | None = None,
        metric: Metric = "top1",
        val_share: float = 0.1,
        exif_orientation: bool = False,
        **augmentation: Any,
    ) -> None:
        super().__init__(**augmentation)
        self.metric = checked_metric(metric)
        self.exif_orientation = exif_orientation
        check_number("val_share", val_share, above=0, below=1)
        class_names = find_classes(Path(root), train_split, val_split, test_split, classes)

        def images(split: str, transform: v2.Transform) -> ClassFolderImages:
            return list_images(Path(root) / split, transform, class_names, exif_orientation)

        train = images(train_split, self.to_train)
        if val_split is None:
            kept, held_out = hold_out_of(train, val_share, root)
            train, val = train.take(kept, self.to_train), train.take(held_out, self.to_eval)
        else:
            val = images(val_split, self.to_eval)
        self.use(class_names, train, val, None if test_split is None else images(test_split, self.to_eval))


def find_classes(
    root: Path,
    train_split: str = "train",
    val_split: str | None = "val",
    test_split: str | None = None,
    chosen: Sequence[str] | None = None,
) -> list[str]:
    """Names of the class folders (see `class_folders`), sorted; all splits must have the same.

    Args:
        root: Folder with the splits.
        train_split: Name of the folder to train on.
        val_split: Name of the folder for validation, if there is one.
        test_split: Name of the folder for test, if there is one.
        chosen: Take these only, in this order; the splits may differ in other ones.

    Raises:
        ValueError: If a folder is missing, has no class folders or not the chosen ones, or the splits differ.
    """
    evaluated = {"val_split": val_split, "test_split": test_split}
    splits = {"train_split": train_split, **{name: split for name, split in evaluated.items() if split is not None}}
    for name, split in splits.items():
        if not split:
            raise ValueError(f"{name}: got {split!r}, expected the name of a folder in {root}")
    layout = "expected" + "".join(f"\n    {root}/{split}/<class name>/*.jpg" for split in splits.values())
    if not root.is_dir():
        raise ValueError(f"root: {root} is {'not a folder' if root.exists() else 'missing'}; {layout}")
    folders: dict[str, set[str]] = {}
    for split in splits.values():
        if not (root / split).is_dir():
            raise ValueError(f"root: {root} has no folder {split}; {layout}")
        folders[split] = set(class_folders(root / split, "root"))
        if not folders[split]:
            raise ValueError(f"root: {root / split} has no class folders; {layout}")
    if chosen is not None:
        return _checked_choice(root, chosen, folders)
    for one, other in itertools.permutations(folders, 2):
        if extra := folders[one] - folders[other]:
            raise ValueError(f"root: {first_few(extra)} in {root / one}, but not in {root / other}; {layout}")
    return sorted(folders[train_split])


def _checked_choice(root: Path, chosen: Sequence[str], folders: Mapping[str, set[str]]) -> list[str]:
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"classes: got {list(chosen)}, expected the names of class folders, each once")
    for split, names in folders.items():
        if absent := set(chosen) - names:
            raise ValueError(f"classes: {root / split} has no folder {first_few(absent)}; it has {first_few(names)}")
    return list(chosen)


class ClassFolderImages(ImageFolder):
    """torchvision's ImageFolder by our rule of what is listed; it would take hidden folders for classes, too.

    Args:
        folder: Folder with one folder per class.
        transform: From what the loader gives to what the sample is; `None` to leave it.
        class_names: Names of the class folders, in the order of the labels.
        loader: Reads a file.

    Raises:
        ValueError: If a class has no images or a file has a format that cannot be decoded.
    """

    transform: v2.Transform | None

    def __init__(
        self,
        folder: Path,
        transform: v2.Transform | None,
        class_names: Sequence[str],
        loader: Callable[[str], Any] = decode_rgb,
    ) -> None:
        self._class_names = list(class_names)
        super().__init__(folder, transform, loader=loader, allow_empty=True)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Names of the class folders, and the label of each."""
        return self._class_names, {name: label for label, name in enumerate(self._class_names)}

    @staticmethod
    def make_dataset(directory: str | Path, class_to_idx: dict[str, int], *_: Any, **__: Any) -> list[tuple[str, int]]:
        """Path and label of each image; what torchvision would list by is not asked."""
        return list(zip(*list_class_images(Path(directory), class_to_idx, "root"), strict=True))

    def take(self, indices: Sequence[int], transform: v2.Transform) -> "ClassFolderImages":
        """The images of these indices, with another transform."""
        taken = copy.copy(self)
        taken.samples = taken.imgs = [self.samples[index] for index in indices]
        taken.targets = [self.targets[index] for index in indices]
        taken.transform = transform
        return taken


def hold_out_of(train: ClassFolderImages, share: float, root: str) -> tuple[list[int], list[int]]:
    """Indices of the training images that stay, and of the share of each class that is held out (see `hold_out`).

    Raises:
        ValueError: No class has two images.
    """
    kept, held_out = hold_out(train.targets, share)
    if not held_out:
        raise ValueError(f"val_split: got None for {root}, where no class has two images, expected a folder")
    return kept, held_out


def list_images(
    folder: Path,
    transform: v2.Transform,
    class_names: Sequence[str] | None = None,
    exif_orientation: bool = False,
) -> ClassFolderImages:
    """The images in the class folders of `folder`, decoded by `decode_rgb`.

    Args:
        folder: Folder with one folder per class.
        transform: From uint8 (3, H, W) of any size to the model's size.
        class_names: Take these class folders only, with labels in this order; `None` takes all, in alphabetical order.
        exif_orientation: Turn photos upright.

    Raises:
        ValueError: If a class has no images or a file has a format that cannot be decoded.
    """
    names = class_folders(folder, "root") if class_names is None else class_names
    loader = partial(decode_rgb, exif_orientation=exif_orientation)
    return ClassFolderImages(folder, transform, names, loader)
