"""Small copies of segmentation datasets, each file where the real dataset has it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (40, 56)  # height, width


def photo(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def halves(first: int, second: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """One number above, another one below."""
    mask = np.full(size, first, dtype=np.uint8)
    mask[size[0] // 2 :] = second
    return mask


def save_mask(path: Path, mask: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    image.save(path)


def write_folder(root: Path, splits: tuple[str, ...] = ("train", "val"), images: int = 4) -> None:
    """Two classes, dark above and bright below, with a stripe of no class."""
    for split in splits:
        for number in range(images):
            mask = halves(0, 1)
            pixels = np.repeat((60 + 120 * mask)[..., None], 3, axis=2)
            mask[:2] = 255
            path = root / split / "images" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            save_mask(root / split / "masks" / f"{number}.png", mask)
    (root / "classes.txt").write_text("ground\nsky\n")


def _voc(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",)}.items():
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            photo(base / "JPEGImages" / f"{name}.jpg")
            mask = halves(0, 20)
            mask[10] = 255
            save_mask(base / "SegmentationClass" / f"{name}.png", mask, palette=True)


def _sbd(root: Path) -> None:
    for split, names in {"train": ("2008_000002", "2008_000003"), "val": ("2008_000004",)}.items():
        root.mkdir(exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            photo(root / "img" / f"{name}.jpg")
            (root / "cls").mkdir(exist_ok=True)
            entry = np.zeros((1,), dtype=[("Segmentation", object)])
            entry["Segmentation"][0] = halves(0, 20)
            savemat(root / "cls" / f"{name}.mat", {"GTcls": entry})


def _oxford_iiit_pet(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for split, names in {"trainval": ("Abyssinian_1", "Birman_2"), "test": ("Abyssinian_3",)}.items():
        (base / "annotations" / "trimaps").mkdir(parents=True, exist_ok=True)
        (base / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
        for name in names:
            photo(base / "images" / f"{name}.jpg")
            mask = halves(1, 2)
            mask[20] = 3
            save_mask(base / "annotations" / "trimaps" / f"{name}.png", mask)


def _cityscapes(root: Path) -> None:
    for split, city in {"train": "aachen", "val": "munster"}.items():
        for number in range(2):
            name = f"{city}_00000{number}_000019"
            photo(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            # license plates and rails are not scored
            mask = halves(7, 33)
            mask[0] = 10
            save_mask(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", mask)


def _ade20k(root: Path) -> None:
    base = root / "ADEChallengeData2016"
    for part, letters in {"training": "train", "validation": "val"}.items():
        for number in range(1, 3):
            name = f"ADE_{letters}_0000000{number}"
            photo(base / "images" / part / f"{name}.jpg")
            mask = halves(1, 150)
            mask[5] = 0
            save_mask(base / "annotations" / part / f"{name}.png", mask)
    rows = [f"{number}\t0.1\t10\t1\tthing {number}" for number in range(1, 151)]
    (base / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")


COPIES: dict[str, Callable[[Path], None]] = {
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
    "folder": write_folder,
    "oxford_iiit_pet": _oxford_iiit_pet,
    "sbd": _sbd,
    "voc": _voc,
}
