"""Each dataset of torchvision on a small copy in its official layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets
from torchvision_copies import (
    TEST,
    TRAIN,
    UNDIVIDED,
    VAL,
    WRITERS,
    accept_any_checksum,
    label_of,
    stand_in_for_h5py,
    write_copy,
)

from mhc_vision.data import DownstreamDataModule
from mhc_vision.data.downstream.catalog import SETS, find_set

OPTIONS: dict[str, Any] = {"batch_size": 1, "num_workers": 0, "img_size": 8, "complete": False, "download": False}

# number of classes in the copies, first and last name
CLASSES = {
    "caltech101": (2, "accordion", "yin_yang"),
    "caltech256": (2, "001.ak47", "002.american-flag"),
    "cifar10": (10, "name 0", "name 9"),
    "cifar100": (5, "name 0", "name 4"),
    "country211": (2, "AD", "ZW"),
    "dtd": (2, "banded", "zigzagged"),
    "emnist": (47, "0", "t"),
    "eurosat": (3, "AnnualCrop", "River"),
    "fashion_mnist": (10, "T-shirt/top", "Ankle boot"),
    "fer2013": (7, "angry", "neutral"),
    "fgvc_aircraft": (2, "Boeing 707-320", "A300B4"),
    "flowers102": (102, "pink primrose", "blackberry lily"),
    "food101": (2, "apple_pie", "waffles"),
    "gtsrb": (43, "speed limit 20", "end of no passing for trucks"),
    "imagenet": (2, "tench, Tinca tinca", "goldfish, Carassius auratus"),
    "imagenette": (2, "tench, Tinca tinca", "golf ball"),
    "inaturalist": (
        2,
        "00000_Animalia_Chordata_Aves_Order_Family_Genus_species0",
        "00001_Animalia_Chordata_Aves_Order_Family_Genus_species1",
    ),
    "kmnist": (10, "o", "wo"),
    "mnist": (10, "0 - zero", "9 - nine"),
    "oxford_iiit_pet": (2, "Abyssinian", "American Bulldog"),
    "pcam": (2, "normal", "tumor"),
    "places365": (2, "/z/zen_garden", "/a/airfield"),
    "rendered_sst2": (2, "negative", "positive"),
    "stanford_cars": (2, "AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    "stl10": (3, "airplane", "car"),
    "sun397": (2, "abbey", "balcony/interior"),
    "svhn": (10, "0", "9"),
    "usps": (10, "0", "9"),
}

# images of each class to train, to validate and to test on; with official splits VAL and TEST are those of the copies
COUNTS = {
    # 30 to train, as in its papers, of which a tenth validates
    "caltech101": (27, 3, UNDIVIDED["caltech101"] - 30),
    "caltech256": (54, 6, UNDIVIDED["caltech256"] - 60),
    # a fifth to test, a tenth of the rest to validate
    "eurosat": (7, 1, 2),
    "flowers102": (1, 1, 1),
    # whole signs are held out, each taken twice
    "gtsrb": (2, 2, TEST),
    "sun397": (2, 1, 2),
}
OFFICIAL_VAL = {"country211", "dtd", "fgvc_aircraft", "flowers102", "pcam", "rendered_sst2"}


@pytest.fixture(autouse=True)
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    accept_any_checksum(monkeypatch)
    stand_in_for_h5py(monkeypatch)


def drawn(samples: torch.utils.data.Dataset) -> list[tuple[int, int]]:
    """The label by the pixels and the label by the dataset, of each sample."""
    pairs = [samples[index] for index in range(len(samples))]
    assert all((image.shape, image.dtype) == ((3, 8, 8), torch.uint8) for image, _ in pairs)
    return [(label_of(image), label) for image, label in pairs]


@pytest.mark.parametrize("name", SETS)
def test_a_copy_in_the_official_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_copy(name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    data = DownstreamDataModule(name, str(tmp_path), hflip=0.0, **OPTIONS)
    num_classes, first, last = CLASSES[name]
    assert (data.num_classes, data.class_names[0], data.class_names[-1]) == (num_classes, first, last)
    assert data.metric == SETS[name].metric
    kept = TRAIN - 1
    counts = COUNTS.get(name, (TRAIN, VAL, TEST) if name in OFFICIAL_VAL else (kept, TRAIN - kept, TEST))
    for samples, count in zip((data.train_set, data.eval_set, data.test_set), counts, strict=True):
        pairs = drawn(samples)
        assert all(by_pixels == label for by_pixels, label in pairs)
        assert sorted(label for _, label in pairs) == sorted(list(range(num_classes)) * count)
    final = DownstreamDataModule(name, str(tmp_path), validate_on="test", **OPTIONS)
    assert len(final.train_set) == len(data.train_set) + len(data.eval_set)
    assert final.eval_set is not final.test_set
    assert drawn(final.eval_set) == drawn(data.test_set)
    assert sorted(tmp_path.rglob("*")) == before


def test_every_set_has_a_copy_here_and_a_class_there() -> None:
    assert set(SETS) == set(WRITERS) == set(CLASSES)
    for spec in SETS.values():
        assert hasattr(torchvision.datasets, spec.class_name)


def test_means_per_class_are_the_metric_of_the_papers_that_use_them() -> None:
    assert {name for name, spec in SETS.items() if spec.metric == "mean_per_class"} == {
        *("caltech101", "caltech256", "fgvc_aircraft", "flowers102", "oxford_iiit_pet")
    }


def test_an_unknown_name_has_its_nearest_ones() -> None:
    with pytest.raises(ValueError, match="got 'CIFAR100', expected a known one; nearest: cifar100, cifar10"):
        find_set("CIFAR100")
    with pytest.raises(ValueError, match="got 'flowers', expected a known one; nearest: flowers102"):
        find_set("flowers")
    with pytest.raises(ValueError, match=r"got '###', expected one of caltech101, .*usps"):
        find_set("###")
