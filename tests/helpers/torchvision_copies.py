"""Small copies of torchvision's datasets in their official layout, for tests.

An image's grey value is 10 + 2 * label, so that a test can tell by its pixels which label it should have.
"""

import bz2
import csv
import io
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

TRAIN, VAL, TEST = 4, 2, 3
"""Images of each class in the official splits."""

UNDIVIDED = {"caltech101": 33, "caltech256": 63, "eurosat": 10, "sun397": 6}
"""Images of each class in the datasets without splits."""

CHECKED = ("cifar", "fer2013", "flowers102", "places365", "stl10", "svhn")
"""Modules of torchvision's that compare checksums with the official files'."""


def accept_any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take files that are not the official ones."""
    for module in CHECKED:
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: os.path.isfile(path)
        )


def grey(label: int) -> int:
    """The value of all pixels of a class."""
    return 10 + 2 * label


def label_of(image: torch.Tensor) -> int:
    """The label that pixels stand for; they may be 1 too low."""
    return (int(image.float().mean().round()) - 9) // 2


def write_image(path: Path, label: int, suffix: str = "JPEG") -> None:
    """An image of 24 x 20 pixels or, for odd labels, 20 x 24."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (20, 24) if label % 2 else (24, 20)
    buffer = io.BytesIO()
    Image.new("RGB", size, (grey(label),) * 3).save(buffer, suffix, **({"quality": 100} if suffix == "JPEG" else {}))
    path.write_bytes(buffer.getvalue())


def write_copy(name: str, root: Path) -> None:
    """Write a copy of a dataset."""
    root.mkdir(parents=True, exist_ok=True)
    WRITERS[name](root)


def each(num_classes: int, count: int) -> Iterator[tuple[int, int]]:
    """Label and number, from 1, of each image; classes alternate."""
    return ((label, number) for number in range(1, count + 1) for label in range(num_classes))


def pixels(num_classes: int, count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, *shape) and labels (N,)."""
    labels = np.array([label for label, _ in each(num_classes, count)])
    images = np.empty((len(labels), *shape), np.uint8)
    images[:] = (10 + 2 * labels).reshape(-1, *(1 for _ in shape))
    return images, labels


def _caltech101(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    write_image(folder / "BACKGROUND_Google" / "image_0001.jpg", 0)
    for label, number in each(2, UNDIVIDED["caltech101"]):
        write_image(folder / ("accordion", "yin_yang")[label] / f"image_{number:04d}.jpg", label)


def _caltech256(root: Path) -> None:
    folder = root / "caltech256" / "256_ObjectCategories"
    for label, number in each(2, UNDIVIDED["caltech256"]):
        name = ("001.ak47", "002.american-flag")[label]
        write_image(folder / name / f"{label + 1:03d}_{number:04d}.jpg", label)


def _cifar(folder: Path, files: dict[str, int], num_classes: int, keys: tuple[str, str], meta: str) -> None:
    folder.mkdir()
    for file, count in files.items():
        images, labels = pixels(num_classes, count, 3072)
        (folder / file).write_bytes(pickle.dumps({"data": images, keys[0]: labels.tolist()}))
    (folder / meta).write_bytes(pickle.dumps({keys[1]: [f"name {label}" for label in range(num_classes)]}))


def _cifar10(root: Path) -> None:
    counts = {f"data_batch_{number}": 1 if number < 5 else 0 for number in range(1, 6)}
    _cifar(root / "cifar-10-batches-py", {**counts, "test_batch": TEST}, 10, ("labels", "label_names"), "batches.meta")


def _cifar100(root: Path) -> None:
    keys = ("fine_labels", "fine_label_names")
    _cifar(root / "cifar-100-python", {"train": TRAIN, "test": TEST}, 5, keys, "meta")


def _country211(root: Path) -> None:
    for split, count in (("train", TRAIN), ("valid", VAL), ("test", TEST)):
        for label, number in each(2, count):
            write_image(root / "country211" / split / ("AD", "ZW")[label] / f"{number}.jpg", label)


def _dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    first = 1
    for split, count in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        lines = []
        for label, number in each(2, count):
            name = ("banded", "zigzagged")[label]
            lines.append(f"{name}/{name}_{first + number:04d}.jpg")
            write_image(folder / "images" / lines[-1], label)
        first += count
        (folder / "labels" / f"{split}1.txt").write_text("\n".join(lines))


def _idx(path: Path, content: np.ndarray) -> None:
    header = [0x800 + content.ndim, *content.shape]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(value.to_bytes(4, "big") for value in header) + content.astype(np.uint8).tobytes())


def _mnist(folder: str, prefixes: tuple[str, str] = ("train", "t10k"), num_classes: int = 10) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for prefix, count in zip(prefixes, (TRAIN, TEST), strict=True):
            images, labels = pixels(num_classes, count, 28, 28)
            _idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", images)
            _idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels)

    return write


def _eurosat(root: Path) -> None:
    for label, number in each(3, UNDIVIDED["eurosat"]):
        name = ("AnnualCrop", "Forest", "River")[label]
        write_image(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", label)


def _fer2013(root: Path) -> None:
    (root / "fer2013").mkdir()
    with open(root / "fer2013" / "fer2013.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["emotion", "pixels", "Usage"])
        for usage, count in (("Training", TRAIN), ("PublicTest", 1), ("PrivateTest", TEST - 1)):
            for label, _ in each(7, count):
                table.writerow([label, " ".join([str(grey(label))] * 48 * 48), usage])


def _fgvc_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    folder.mkdir(parents=True)
    # names may have spaces, and are not sorted
    names = ("Boeing 707-320", "A300B4")
    (folder / "variants.txt").write_text("\n".join(names))
    image = 1
    for split, count in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        lines = []
        for label, _ in each(2, count):
            lines.append(f"{image:07d} {names[label]}")
            write_image(folder / "images" / f"{image:07d}.jpg", label)
            image += 1
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines))


def _flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    num_classes = len(Flowers102.classes)
    labels: list[int] = []
    ids: dict[str, list[int]] = {}
    # one of each class, as there are many
    for split in ("trnid", "valid", "tstid"):
        ids[split] = list(range(len(labels) + 1, len(labels) + num_classes + 1))
        labels += range(1, num_classes + 1)
    for image, label in enumerate(labels, 1):
        write_image(folder / "jpg" / f"image_{image:05d}.jpg", label - 1)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(folder / "setid.mat", ids)


def _food101(root: Path) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split, count in (("train", TRAIN), ("test", TEST)):
        lists: dict[str, list[str]] = {"waffles": [], "apple_pie": []}
        for label, number in each(2, count):
            name = ("apple_pie", "waffles")[label]
            lists[name].append(f"{name}/{1000 * count + number}")
            write_image(folder / "images" / f"{lists[name][-1]}.jpg", label)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(lists))


def _gtsrb(root: Path) -> None:
    folder = root / "gtsrb" / "GTSRB"
    for label, number in each(43, TRAIN):
        # two signs of each class, each taken twice
        name = f"{(number - 1) // 2:05d}_{(number - 1) % 2:05d}.ppm"
        write_image(folder / "Training" / f"{label:05d}" / name, label, "PPM")
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for image, (label, _) in enumerate(each(43, TEST)):
        write_image(folder / "Final_Test" / "Images" / f"{image:05d}.ppm", label, "PPM")
        lines.append(f"{image:05d}.ppm;24;20;1;1;20;20;{label}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(lines))


def _imagenet(root: Path) -> None:
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish", "Carassius auratus")}
    for split, count in (("train", TRAIN), ("val", TEST)):
        for label, number in each(2, count):
            write_image(root / split / list(names)[label] / f"{split}_{number}.JPEG", label)
    torch.save((names, []), root / "meta.bin")


def _imagenette(root: Path) -> None:
    for split, count in (("train", TRAIN), ("val", TEST)):
        for label, number in each(2, count):
            write_image(root / "imagenette2" / split / ("n01440764", "n03445777")[label] / f"{number}.JPEG", label)


def _inaturalist(root: Path) -> None:
    names = [f"{label:05d}_Animalia_Chordata_Aves_Order_Family_Genus_species{label}" for label in range(2)]
    for split, count in (("2021_train", TRAIN), ("2021_valid", TEST)):
        # not in the order of their names
        for label, number in reversed(list(each(2, count))):
            write_image(root / split / names[label] / f"{number}.jpg", label)


def _oxford_iiit_pet(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("trainval", TRAIN), ("test", TEST)):
        lines = ""
        for label, number in each(2, count):
            image = f"{('Abyssinian', 'american_bulldog')[label]}_{1000 * count + number}"
            lines += f"{image} {label + 1} {label + 1} 1\n"
            write_image(folder / "images" / f"{image}.jpg", label)
        (folder / "annotations" / f"{split}.txt").write_text(lines)


def _pcam(root: Path) -> None:
    import h5py

    (root / "pcam").mkdir()
    for split, count in (("train", TRAIN), ("valid", VAL), ("test", TEST)):
        images, labels = pixels(2, count, 96, 96, 3)
        for part, key, content in (("x", "x", images), ("y", "y", labels.reshape(-1, 1, 1, 1))):
            with h5py.File(root / "pcam" / f"camelyonpatch_level_2_split_{split}_{part}.h5", "w") as file:
                file[key] = content


def _places365(root: Path) -> None:
    # labels need not be in the order of the names
    names = ("/z/zen_garden", "/a/airfield")
    (root / "categories_places365.txt").write_text("\n".join(f"{name} {label}" for label, name in enumerate(names)))
    train, val = [], []
    for label, number in each(2, TRAIN):
        train.append(f"{names[label]}/{number:08d}.jpg {label}")
        write_image(root / "data_256_standard" / f"{names[label][1:]}/{number:08d}.jpg", label)
    for image, (label, _) in enumerate(each(2, TEST), 1):
        val.append(f"Places365_val_{image:08d}.jpg {label}")
        write_image(root / "val_256" / f"Places365_val_{image:08d}.jpg", label)
    (root / "places365_train_standard.txt").write_text("\n".join(train))
    (root / "places365_val.txt").write_text("\n".join(val))


def _rendered_sst2(root: Path) -> None:
    for split, count in (("train", TRAIN), ("valid", VAL), ("test", TEST)):
        for label, number in each(2, count):
            name = ("negative", "positive")[label]
            write_image(root / "rendered-sst2" / split / name / f"{number}.png", label, "PNG")


def _stanford_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    files = {"train": folder / "devkit" / "cars_train_annos.mat", "test": folder / "cars_test_annos_withlabels.mat"}
    for split, count in (("train", TRAIN), ("test", TEST)):
        rows = []
        for image, (label, _) in enumerate(each(2, count), 1):
            rows.append((label + 1, f"{image:05d}.jpg"))
            write_image(folder / f"cars_{split}" / f"{image:05d}.jpg", label)
        savemat(files[split], {"annotations": np.array(rows, [("class", object), ("fname", object)])})
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def _stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for split, count in (("train", TRAIN), ("test", TEST)):
        images, labels = pixels(3, count, 3, 96, 96)
        images.tofile(folder / f"{split}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    (folder / "unlabeled_X.bin").touch()
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")


def _sun397(root: Path) -> None:
    folder = root / "SUN397"
    names = ("/a/abbey", "/b/balcony/interior")
    for label, number in each(2, UNDIVIDED["sun397"]):
        write_image(folder / names[label][1:] / f"sun_{number}.jpg", label)
    (folder / "ClassName.txt").write_text("\n".join(names))
    # one image of each class is in neither
    for file, numbers in (("Training_01.txt", (6, 2, 4)), ("Testing_01.txt", (1, 3))):
        (folder / file).write_text("\n".join(f"{name}/sun_{number}.jpg" for name in names for number in numbers))


def _svhn(root: Path) -> None:
    for split, count in (("train", TRAIN), ("test", TEST)):
        images, labels = pixels(10, count, 32, 32, 3)
        content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
        savemat(root / f"{split}_32x32.mat", content)


def _usps(root: Path) -> None:
    for file, count in (("usps.bz2", TRAIN), ("usps.t.bz2", TEST)):
        lines = []
        for label, _ in each(10, count):
            values = " ".join(f"{place}:{2 * grey(label) / 255 - 1:.6f}" for place in range(1, 257))
            lines.append(f"{label + 1} {values}")
        (root / file).write_bytes(bz2.compress("\n".join(lines).encode()))


WRITERS: dict[str, Callable[[Path], None]] = {
    "caltech101": _caltech101,
    "caltech256": _caltech256,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "country211": _country211,
    "dtd": _dtd,
    "emnist": _mnist("EMNIST", ("emnist-balanced-train", "emnist-balanced-test"), num_classes=47),
    "eurosat": _eurosat,
    "fashion_mnist": _mnist("FashionMNIST"),
    "fer2013": _fer2013,
    "fgvc_aircraft": _fgvc_aircraft,
    "flowers102": _flowers102,
    "food101": _food101,
    "gtsrb": _gtsrb,
    "imagenet": _imagenet,
    "imagenette": _imagenette,
    "inaturalist": _inaturalist,
    "kmnist": _mnist("KMNIST"),
    "mnist": _mnist("MNIST"),
    "oxford_iiit_pet": _oxford_iiit_pet,
    "pcam": _pcam,
    "places365": _places365,
    "rendered_sst2": _rendered_sst2,
    "stanford_cars": _stanford_cars,
    "stl10": _stl10,
    "sun397": _sun397,
    "svhn": _svhn,
    "usps": _usps,
}


class _ArrayFile(dict):
    """The little of `h5py.File` that torchvision and the writer above need, as numpy's own format."""

    def __init__(self, path: Path, mode: str = "r") -> None:
        super().__init__()
        self.path, self.mode = path, mode

    def __enter__(self) -> Any:
        return self if self.mode == "w" else np.load(self.path)

    def __exit__(self, *error: object) -> None:
        if self.mode == "w":
            with open(self.path, "wb") as file:
                np.savez(file, **self)


def stand_in_for_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where h5py is missing, let something stand in for it that reads what it has written itself."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        module = ModuleType("h5py")
        module.File = _ArrayFile  # type: ignore[attr-defined]
        module.__spec__ = __spec__
        monkeypatch.setitem(sys.modules, "h5py", module)
