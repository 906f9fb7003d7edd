"""Datasets of semantic segmentation: torchvision's, ADE20K's challenge, and folders of image and mask pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torchvision.datasets
from torchvision.datasets import Cityscapes

from mhc_vision.checks import check_choice, first_few
from mhc_vision.data.class_names import check_distinct
from mhc_vision.data.downstream.fetch import by_hand, fetch_missing
from mhc_vision.data.downstream.spec import Split, TorchvisionSet, official_splits
from mhc_vision.data.folders import images_in
from mhc_vision.data.segmentation.masks import MaskValues, class_values, paired_files
from mhc_vision.segmentation_scores import IGNORED

Pairs = tuple[list[str], list[str]]
"""Files of images and of their masks."""

_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_ADE20K = "ADEChallengeData2016"


@dataclass(frozen=True)
class TorchvisionMasks:
    """A dataset of torchvision's.

    Attributes:
        files: Where its files are, and how they get there.
        values: What its masks hold.
        images: The images of torchvision's object.
        masks: Their masks.
    """

    files: TorchvisionSet
    values: MaskValues
    images: Callable[[Any], Sequence[Any]] = attrgetter("images")
    masks: Callable[[Any], Sequence[Any]] = attrgetter("masks")

    def open(self, name: str, root: Path, download: bool) -> dict[str, Pairs]:
        """Its splits, fetched where they are missing.

        Raises:
            ValueError: If they cannot be had.
        """
        fetch_missing(name, self.files, root, download)
        pairs: dict[str, Pairs] = {}
        for split, official in self.files.splits.items():
            try:
                found = getattr(torchvision.datasets, self.files.class_name)(str(root), **official.arguments)
            except Exception as error:  # torchvision's readers fail in as many ways as there are formats
                raise ValueError(
                    f"dataset: {name} in {root}: got a damaged or partial copy, expected a whole one: {error}; "
                    f"{by_hand(self.files, root)}"
                ) from error
            both = sorted(zip(map(str, self.images(found)), map(str, self.masks(found)), strict=True))
            if absent := [path for paths in both for path in paths if not Path(path).is_file()]:
                raise ValueError(f"dataset: {name} in {root}: expected all of its files; missing: {first_few(absent)}")
            pairs[split] = [image for image, _ in both], [mask for _, mask in both]
        return pairs


def _splits(
    key: str = "split", names: Mapping[str, str] | None = None, *, train: int, val: int, **arguments: str
) -> dict[str, Split]:
    """Official splits for which torchvision's class takes further arguments."""
    splits = official_splits(key, names, train=train, val=val)
    return {name: replace(split, arguments={**split.arguments, **arguments}) for name, split in splits.items()}


def _cityscapes() -> MaskValues:
    scored = {kind.id: kind.train_id for kind in Cityscapes.classes if kind.id >= 0}
    names = {kind.train_id: kind.name for kind in Cityscapes.classes if 0 <= kind.train_id < IGNORED}
    return MaskValues(tuple(names[label] for label in range(len(names))), scored)


SETS: Mapping[str, TorchvisionMasks] = {
    "cityscapes": TorchvisionMasks(
        TorchvisionSet(
            "Cityscapes",
            _splits(target_type="semantic", train=2975, val=500),
            ("leftImg8bit/<split>/<city>/<image>_leftImg8bit.png", "gtFine/<split>/<city>/<image>_gtFine_labelIds.png"),
            "https://www.cityscapes-dataset.com, with an account",
            fetch=None,
        ),
        _cityscapes(),
        masks=lambda dataset: [target for (target,) in dataset.targets],
    ),
    "oxford_iiit_pet": TorchvisionMasks(
        TorchvisionSet(
            "OxfordIIITPet",
            _splits(names={"train": "trainval", "val": "test"}, target_types="segmentation", train=3680, val=3669),
            ("oxford-iiit-pet/images/<image>.jpg", "oxford-iiit-pet/annotations/trimaps/<image>.png"),
            "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        ),
        class_values(("pet", "background", "border"), first=1),
        images=attrgetter("_images"),
        masks=attrgetter("_segs"),
    ),
    "sbd": TorchvisionMasks(
        TorchvisionSet(
            "SBDataset",
            _splits("image_set", mode="segmentation", train=8498, val=2857),
            ("img/<image>.jpg", "cls/<image>.mat", "train.txt", "val.txt"),
            "http://home.bharathh.info/pubs/codes/SBD/download.html",
        ),
        class_values(_VOC),
    ),
    "voc": TorchvisionMasks(
        TorchvisionSet(
            "VOCSegmentation",
            _splits("image_set", train=1464, val=1449),
            (
                "VOCdevkit/VOC2012/JPEGImages/<image>.jpg",
                "VOCdevkit/VOC2012/SegmentationClass/<image>.png",
                "VOCdevkit/VOC2012/ImageSets/Segmentation/<split>.txt",
            ),
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        ),
        class_values(_VOC),
    ),
}

NAMES = ("ade20k", "folder", *SETS)


def open_pairs(
    name: str, root: Path, download: bool = True, classes: Sequence[str] | None = None
) -> tuple[MaskValues, dict[str, Pairs]]:
    """What the masks of a dataset hold, and its splits `train`, `val` and, where there is one, `test`.

    Args:
        name: One of `NAMES`.
        root: The folder that it is in, or is fetched to.
        download: Fetch what is missing, where torchvision does.
        classes: Names of those of a folder, in the order of the numbers in its masks; `None` for the lines of
            `root/classes.txt`.

    Raises:
        ValueError: If the dataset is unknown, not there or not whole, or classes are not named.
    """
    check_choice("dataset", name, NAMES)
    if classes is not None and name != "folder":
        raise ValueError(f"classes: got some for {name}, which has its own, expected null")
    if not root.is_dir():
        state = "not a folder" if root.exists() else "missing"
        raise ValueError(f"root: {root} is {state}, expected the folder that {name} is in, or shall be fetched to")
    if name in SETS:
        return SETS[name].values, SETS[name].open(name, root, download)
    if name == "ade20k":
        parts = {"train": "training", "val": "validation"}
        folders = {
            split: (root / _ADE20K / "images" / part, root / _ADE20K / "annotations" / part)
            for split, part in parts.items()
        }
        rows = _lines(root / _ADE20K / "objectInfo150.txt")[1:]
        if len(rows) != 150:
            raise ValueError(f"root: {root / _ADE20K}: got {len(rows)} classes in objectInfo150.txt, expected 150")
        return class_values([row.split("\t")[-1] for row in rows], first=1, ignored=(0,)), _pairs_in(folders)
    splits = [split for split in ("train", "val", "test") if split != "test" or (root / split).is_dir()]
    names = _lines(root / "classes.txt") if classes is None else list(classes)
    check_distinct(names, "classes")
    if "" in names:
        # left out, it would give its number to the next one
        raise ValueError(f"classes: got no name for class {names.index('')}, expected one for each")
    if not 2 <= len(names) <= IGNORED:
        raise ValueError(f"classes: got {len(names)}, expected 2 to {IGNORED} classes")
    folders = {split: (root / split / "images", root / split / "masks") for split in splits}
    return class_values(names), _pairs_in(folders)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"root: {path} is missing, expected a text file with the name of a class in each line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"root: {path} holds other bytes than UTF-8 text; convert it") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def _pairs_in(folders: Mapping[str, tuple[Path, Path]]) -> dict[str, Pairs]:
    if absent := [str(folder) for both in folders.values() for folder in both if not folder.is_dir()]:
        raise ValueError(f"root: expected the folders {', '.join(absent)}, with an image and a mask of each name")
    return {
        split: paired_files(images_in(images, "root"), images_in(masks, "root"), images.parent)
        for split, (images, masks) in folders.items()
    }
