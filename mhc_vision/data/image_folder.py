"""ImageNet and every other dataset in its folder layout."""

from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.data.class_folders import check_class_images, class_folders
from mhc_vision.data.decode import decode_rgb
from mhc_vision.data.naming import first_few


class ImageFolderDataModule(AugmentedDataModule):
    """Images in `root/train/<class>/` and `root/val/<class>/`; the folder names are the class names.

    Files are JPEG, PNG or WebP (see `decode_rgb`). All files are listed at construction, so a wrong layout is found
    before training starts; a broken image is found when it is read, and its name is in the error. Test uses the
    images of validation.

    Args:
        root: Folder with the two splits.
        train_split: Name of the folder to train on.
        val_split: Name of the folder for validation and test.
        augmentation: The options of `AugmentedDataModule`.

    Raises:
        ValueError: If an argument is out of range or the folders are not laid out as above.
    """

    def __init__(self, root: str, train_split: str = "train", val_split: str = "val", **augmentation: Any) -> None:
        super().__init__(**augmentation)
        class_names = find_classes(Path(root), train_split, val_split)
        train_set, eval_set = (
            list_images(Path(root) / split, transform)
            for split, transform in ((train_split, self.to_train), (val_split, self.to_eval))
        )
        self.use(class_names, train_set, eval_set)


def find_classes(root: Path, train_split: str = "train", val_split: str = "val") -> list[str]:
    """Sorted names of the class folders (see `class_folders`), which must be the same in both splits.

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
        classes[split] = set(class_folders(root / split))
        if not classes[split]:
            raise ValueError(f"root: {root / split} has no class folders; {layout}")
    for one, other in ((train_split, val_split), (val_split, train_split)):
        if extra := classes[one] - classes[other]:
            raise ValueError(f"root: {first_few(extra)} in {root / one}, but not in {root / other}; {layout}")
    return sorted(classes[train_split])


class ClassFolderImages(ImageFolder):
    """torchvision's ImageFolder with the classes of `class_folders`: it would take hidden folders for classes, too."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Names of the class folders, and the label of each."""
        names = class_folders(Path(directory))
        return names, {name: label for label, name in enumerate(names)}


def list_images(folder: Path, transform: v2.Transform) -> ClassFolderImages:
    """The images in the class folders of `folder`, decoded by `decode_rgb`.

    Args:
        folder: Folder with one folder a class.
        transform: From uint8 (3, H, W) of any size to the model's size.

    Raises:
        ValueError: If a class has no images or a file has a format that cannot be decoded.
    """
    dataset = ClassFolderImages(folder, transform, loader=decode_rgb, allow_empty=True)
    check_class_images(folder, dataset.samples, dataset.class_to_idx, "root")
    return dataset
