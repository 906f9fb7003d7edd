import io
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mhc_vision.data import ImageFolderDataModule, TimmDataModule
from mhc_vision.data.readers import TorchvisionImages

OPTIONS: dict[str, Any] = {"batch_size": 5, "num_workers": 0, "img_size": 32, "seed": 3}


@pytest.fixture
def hfds(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The image folder as parquet files of a Hugging Face dataset, read without network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["blue", "green", "red"])}
    )
    (tmp_path / "parquet").mkdir()
    for split, name in (("train", "train"), ("val", "validation")):
        paths = sorted((image_folder / split).rglob("*.jpg"))
        rows = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
            "label": [["blue", "green", "red"].index(path.parent.name) for path in paths],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "parquet" / f"{name}.parquet")
    return {"dataset": f"hfds/{tmp_path / 'parquet'}", "root": str(tmp_path / "cache"), **OPTIONS}


def batches_of(data: Any, position: tuple[int, int] = (0, 0)) -> list[list[torch.Tensor]]:
    data._position = lambda: position
    return [*data.train_dataloader(), *data.val_dataloader()]


def assert_same(batches: list[list[torch.Tensor]], expected: list[list[torch.Tensor]]) -> None:
    for (images, labels), (same_images, same_labels) in zip(batches, expected, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("position", [(0, 0), (2, 10)])
def test_hugging_face_batches_are_those_of_the_folder(
    hfds: dict[str, Any], image_folder: Path, num_workers: int, position: tuple[int, int]
) -> None:
    data = TimmDataModule(**{**hfds, "num_workers": num_workers})
    assert data.class_names == ["blue", "green", "red"]
    assert_same(batches_of(data, position), batches_of(ImageFolderDataModule(str(image_folder), **OPTIONS), position))


@pytest.mark.parametrize("tar", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_folders_and_tar_files(image_folder: Path, tar: bool, num_workers: int) -> None:
    expected = batches_of(ImageFolderDataModule(str(image_folder), **OPTIONS))
    if tar:
        for split in ("train", "val"):
            with tarfile.open(image_folder / f"{split}.tar", "w") as file:
                file.add(image_folder / split, ".")
            shutil.rmtree(image_folder / split)
    data = TimmDataModule("", str(image_folder), val_split="val", **{**OPTIONS, "num_workers": num_workers})
    assert data.class_names == ["blue", "green", "red"]
    # a read in this process must not disturb those of the workers
    data.train_set[0]
    assert_same(batches_of(data), expected)


def test_a_test_split_of_its_own(hfds: dict[str, Any], image_folder: Path) -> None:
    assert TimmDataModule(**hfds).test_set is not None
    data = TimmDataModule(**hfds, test_split="train", metric="mean_per_class")
    assert [len(samples) for samples in (data.train_set, data.eval_set, data.test_set)] == [24, 9, 24]
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 24
    assert data.metric == "mean_per_class"
    with pytest.raises(ValueError, match="metric: got 'f1', expected one of top1, mean_per_class"):
        TimmDataModule(**hfds, metric="f1")
    shutil.copytree(image_folder / "val", image_folder / "test")
    shutil.rmtree(image_folder / "test" / "green")
    with pytest.raises(ValueError, match=r"got test classes \['blue', 'red'\], expected those of the training split"):
        TimmDataModule("", str(image_folder), val_split="val", test_split="test", **OPTIONS)


def test_torchvision_datasets(image_folder: Path) -> None:
    expected = batches_of(ImageFolderDataModule(str(image_folder), **OPTIONS))
    data = TimmDataModule("torch/image_folder", str(image_folder), val_split="val", **OPTIONS)
    assert data.class_names == ["blue", "green", "red"]
    for (images, labels), (same_images, same_labels) in zip(batches_of(data), expected, strict=True):
        assert torch.equal(labels, same_labels)
        # Pillow's JPEG decoder rounds differently
        assert (images.float() - same_images.float()).abs().mean() < 2


def test_a_torchvision_image_that_is_broken_further_in_is_named() -> None:
    noise = Image.fromarray(torch.randint(256, (200, 200, 3), dtype=torch.uint8).numpy())
    first, second, rest = encoded(noise, "png").split(b"IDAT", 2)
    broken = b"IDAT".join((first, second)) + b"\0\1\2\3" + rest
    # Pillow opens it, and raises a SyntaxError when it comes to the pixels
    dataset = TorchvisionImages([(Image.open(io.BytesIO(broken)), 0)], lambda image: image, num_classes=1)
    with pytest.raises(ValueError, match="cannot decode image 0: broken PNG file"):
        dataset[0]


def encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=form)
    return file.getvalue()


def test_formats_that_torchvision_does_not_read(hfds: dict[str, Any]) -> None:
    data = TimmDataModule(**hfds)
    bitmap = encoded(Image.new("L", (40, 40), 77), "bmp")
    data.eval_set.reader = OneSample(bitmap)
    image, label = data.eval_set[0]
    assert (image == 77).all()
    assert label == 1
    data.eval_set.reader = OneSample(bitmap[:100])
    with pytest.raises(ValueError, match=r"cannot decode image 0 \(one\): truncated"):
        data.eval_set[0]


class OneSample:
    """A reader of one file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        return io.BytesIO(self.content), 1

    def filename(self, index: int) -> str:
        return "one"


def test_broken_images_are_named_or_skipped_in_training_alone(image_folder: Path) -> None:
    for split in ("train", "val"):
        (image_folder / split / "blue" / "1.jpg").write_bytes(b"broken")
    data = TimmDataModule("", str(image_folder), val_split="val", broken="skip", **OPTIONS)
    with pytest.warns(UserWarning, match=r"cannot decode image \d+ \(blue/1\.jpg\).*; left out"):
        assert len(list(data.train_dataloader())) == 4
    with pytest.raises(ValueError, match=r"cannot decode image \d+ \(blue/1\.jpg\)"):
        list(data.val_dataloader())


def test_labels_that_are_no_class_are_named(hfds: dict[str, Any]) -> None:
    data = TimmDataModule(**hfds)
    data.eval_set.num_classes = 2
    with pytest.raises(ValueError, match="got the label 2, expected a number from 0 to 1"):
        list(data.val_dataloader())


def test_columns_that_are_not_there_are_named_with_those_that_are(hfds: dict[str, Any]) -> None:
    for argument in ("image_key", "label_key"):
        with pytest.raises(ValueError, match=f"{argument}: got 'nothing', expected a column of .*: image, label"):
            TimmDataModule(**hfds, **{argument: "nothing"}, num_classes=3)


def test_names_of_the_classes_can_be_given(hfds: dict[str, Any]) -> None:
    assert TimmDataModule(**hfds, class_names=["B", "G", "R"], num_classes=3).class_names == ["B", "G", "R"]
    with pytest.raises(ValueError, match="class_names: got 2, expected one for each of the dataset's 3 classes"):
        TimmDataModule(**hfds, class_names=["B", "G"])


def test_splits_with_other_classes_are_refused(image_folder: Path) -> None:
    shutil.rmtree(image_folder / "val" / "green")
    with pytest.raises(ValueError, match=r"got validation classes .* expected those of the training split"):
        TimmDataModule("", str(image_folder), val_split="val", **OPTIONS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "expected a folder .*/validation or a file .*/validation.tar"),
        ({"val_split": ""}, "val_split: got '', expected a folder or tar file in"),
        ({"dataset": "hfids/name"}, "expected samples in an order that a run can resume"),
        ({"dataset": "tfds/name"}, "expected samples in an order that a run can resume"),
        ({"dataset": "folder/name"}, "got 'folder/name', expected hfds/..., wds/..., torch/... or an empty name"),
        ({"dataset": "torch/nothing"}, "'torch/nothing' with split 'train' cannot be opened: Unknown"),
        ({"dataset": "torch/cifar10"}, "'torch/cifar10' with split 'train' cannot be opened: Dataset not found"),
        ({"num_classes": 0}, "num_classes: got 0, expected a whole number from 1"),
        ({"num_classes": 4, "val_split": "val"}, "num_classes: got 4, expected 3, the number of class names"),
        ({"batch_size": 0}, "batch_size"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(image_folder: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmDataModule(**{"dataset": "", "root": str(image_folder), **OPTIONS, **wrong})


@pytest.mark.parametrize(("dataset", "package"), [("hfds/name", "datasets"), ("wds/name", "webdataset")])
def test_a_missing_package_names_the_extra(dataset: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{dataset} needs {package}: pip install 'mhc-vision\[readers\]'"):
        TimmDataModule(dataset, "anywhere")
