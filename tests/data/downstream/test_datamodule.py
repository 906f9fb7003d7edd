"""`DownstreamDataModule` beyond what each dataset needs: memory, few images, damage, resume."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision_copies import TEST, TRAIN, accept_any_checksum, label_of, write_copy

from mhc_vision.data import DownstreamDataModule


@pytest.fixture(autouse=True)
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    accept_any_checksum(monkeypatch)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies that no test changes."""
    root = tmp_path_factory.mktemp("copies")
    for name in ("cifar10", "cifar100", "dtd", "eurosat", "food101"):
        write_copy(name, root)
    return root


def make(root: Path, dataset: str = "eurosat", **options: Any) -> DownstreamDataModule:
    defaults = {"batch_size": 3, "num_workers": 0, "img_size": 8, "complete": False, "download": False}
    return DownstreamDataModule(**{"dataset": dataset, "root": str(root), **defaults, **options})


def batches(loader: DataLoader) -> list[list[torch.Tensor]]:
    return [list(batch) for batch in loader]


@pytest.mark.parametrize("dataset", ["cifar10", "eurosat", "food101"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_in_memory_are_those_of_the_files(copies: Path, dataset: str, num_workers: int) -> None:
    kept, read = (make(copies, dataset, in_memory=kept, num_workers=num_workers) for kept in (True, False))
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        pairs = list(zip(batches(getattr(kept, name)()), batches(getattr(read, name)()), strict=True))
        assert pairs
        for (images, labels), (expected_images, expected_labels) in pairs:
            assert (images.dtype, images.shape[1:]) == (torch.uint8, (3, 8, 8))
            assert torch.equal(images, expected_images)
            assert torch.equal(labels, expected_labels)


def test_images_in_memory_are_decoded_before_workers_predict(copies: Path) -> None:
    data = make(copies, "cifar10", num_workers=1)
    loaders = data.predict_dataloader()
    # else each worker would decode and keep all of them
    assert all(loader.dataset.images.is_decoded for loader in loaders)
    assert [sum(len(labels) for _, labels in loader) for loader in loaders] == [
        len(data.train_set),
        len(data.eval_set),
        len(data.test_set),
    ]


@pytest.mark.parametrize("in_memory", [False, True])
def test_test_images_that_validate_are_predicted_once(copies: Path, in_memory: bool) -> None:
    data = make(copies, "cifar10", validate_on="test", in_memory=in_memory)
    counts = [sum(len(labels) for _, labels in loader) for loader in data.predict_dataloader()]
    assert counts == [10 * TRAIN, 10 * TEST]


def test_small_datasets_are_kept_in_memory_and_decoded_when_needed(copies: Path) -> None:
    small = make(copies, "eurosat")
    small.val_dataloader()
    folder = copies / "eurosat"
    folder.rename(copies / "away")
    try:
        # each image is read once, and those to train on not yet
        assert len(batches(small.val_dataloader())) == 1
        with pytest.raises(ValueError, match="21 of 21 images are broken"):
            small.train_dataloader()
    finally:
        (copies / "away").rename(folder)
    small.train_dataloader()
    large = make(copies, "food101")
    large.train_dataloader()
    assert not large._decoded


def test_parts_do_not_overlap_and_the_seed_does_not_change_them(copies: Path) -> None:
    def file(samples: Any, index: int) -> str:
        return file(samples.dataset, samples.indices[index]) if isinstance(samples, Subset) else samples.paths[index]

    def files(data: DownstreamDataModule) -> list[set[str]]:
        parts = [samples.images for samples in (data.train_set, data.eval_set, data.test_set)]
        return [{file(part, index) for index in range(len(part))} for part in parts]

    parts = files(make(copies, in_memory=False))
    assert [len(part) for part in parts] == [21, 3, 6]
    assert len(set.union(*parts)) == 30
    assert files(make(copies, in_memory=False, seed=5)) == parts
    halves = files(make(copies, in_memory=False, test_share=0.5, val_share=0.4))
    assert [len(part) for part in halves] == [9, 6, 15]


def test_an_official_validation_split_trains_in_the_end(copies: Path) -> None:
    data = make(copies, "dtd", validate_on="test")
    assert len(data.train_set) == 12
    labels = [data.train_set[index] for index in range(12)]
    assert all(label_of(image) == label for image, label in labels)


def test_few_images_are_balanced(copies: Path) -> None:
    data = make(copies, "cifar10", max_train_images=20)
    labels = torch.tensor([data.train_set[index][1] for index in range(len(data.train_set))])
    assert labels.bincount().tolist() == [2] * 10
    assert (len(data.eval_set), len(data.test_set)) == (10, 10 * TEST)
    with pytest.raises(ValueError, match="max_train_images: got 9, expected at least 1 for each of 10 classes"):
        make(copies, "cifar10", max_train_images=9)


def test_memory_is_checked_for_all_processes(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 classes of 4 + 3 images of 32 x 32
    needed = 10 * (TRAIN + TEST) * 3 * 32 * 32
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("mhc_vision.data.machine.available_memory", lambda: needed)
    data = make(copies, "cifar10")
    data.prepare_data()
    data.trainer = SimpleNamespace(num_devices=2)
    with pytest.raises(
        ValueError, match=r"in_memory: 70 images at their own size in each of 2 processes: got .* expected"
    ):
        data.prepare_data()
    monkeypatch.setattr("mhc_vision.data.machine.available_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match="GiB; set in_memory=False or max_train_images"):
        make(copies, "cifar10")
    make(copies, "cifar10", in_memory=False)
    # the test images are held once where they validate, too
    monkeypatch.setattr("mhc_vision.data.machine.available_memory", lambda: needed)
    make(copies, "cifar10", validate_on="test")


def test_a_checkpoint_fits_the_same_division_only(copies: Path) -> None:
    saved = make(copies).state_dict()
    make(copies, in_memory=False, download=True, num_workers=1).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"data: val_share: got 0\.15, expected 0\.1 as in the checkpoint"):
        make(copies, val_share=0.15).load_state_dict(saved)
    with pytest.raises(ValueError, match="data: validate_on: got test, expected val as in the checkpoint"):
        make(copies, validate_on="test").load_state_dict({**saved, "num_train": 24})
    with pytest.raises(ValueError, match="data: class_names: got"):
        make(copies, "dtd").load_state_dict(saved)


def test_too_few_images_are_counted(copies: Path) -> None:
    with pytest.raises(
        ValueError, match=r"got 30 images of split 'all', expected 27000; complete it, .*complete=False"
    ):
        make(copies, complete=True)


def test_listed_images_that_are_missing_are_counted_and_named(tmp_path: Path) -> None:
    write_copy("dtd", tmp_path)
    for path in sorted((tmp_path / "dtd" / "dtd" / "images" / "zigzagged").iterdir()):
        path.unlink()
    with pytest.raises(ValueError, match=r"got 4 images of split 'train', expected 8; missing: .*zigzagged_0002.jpg"):
        make(tmp_path, "dtd")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    write_copy("gtsrb", tmp_path)
    shutil.rmtree(tmp_path / "gtsrb" / "GTSRB" / "Training" / "00007")
    with pytest.raises(ValueError, match="got no images of end of no passing for trucks in split 'train'"):
        make(tmp_path, "gtsrb")
    write_copy("country211", tmp_path)
    shutil.rmtree(tmp_path / "country211" / "test" / "ZW")
    with pytest.raises(
        ValueError, match="classes of split 'test' that differ from split 'train', expected the same: ZW"
    ):
        make(tmp_path, "country211")


def test_labels_that_are_no_class_are_named(tmp_path: Path) -> None:
    write_copy("mnist", tmp_path)
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([12]))
    with pytest.raises(ValueError, match="mnist: got labels 12 in split 'test', expected 0 to 9"):
        make(tmp_path, "mnist")


@pytest.mark.parametrize(
    ("dataset", "file", "reason"),
    [
        ("cifar100", "cifar-100-python/test", "UnpicklingError|EOFError"),
        ("food101", "food-101/meta/train.json", "JSONDecodeError"),
        ("svhn", "train_32x32.mat", "MatReadError|ValueError"),
        ("usps", "usps.bz2", "EOFError|OSError|ValueError"),
    ],
)
def test_damaged_files_are_reported_with_what_to_place(tmp_path: Path, dataset: str, file: str, reason: str) -> None:
    write_copy(dataset, tmp_path)
    (tmp_path / file).write_bytes(b"{")
    with pytest.raises(
        ValueError, match=f"{dataset} in .* damaged or partial copy, expected a whole one: ({reason})"
    ) as refused:
        make(tmp_path, dataset)
    assert "to place it by hand, take from http" in str(refused.value)
    assert (tmp_path / file).read_bytes() == b"{"


def test_a_wrong_checksum_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_copy("cifar10", tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: False)
    with pytest.raises(ValueError, match=r"RuntimeError: Dataset not found or corrupted\.; to place it by hand"):
        make(tmp_path, "cifar10", download=True)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_broken_image_is_named(tmp_path: Path, in_memory: bool) -> None:
    write_copy("eurosat", tmp_path)
    for path in (tmp_path / "eurosat").rglob("*.jpg"):
        if path.name == "River_4.jpg":
            path.write_bytes(path.read_bytes()[:100])

    def read_all() -> None:
        data = make(tmp_path, in_memory=in_memory, validate_on="test", batch_size=1)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            batches(loader)

    with pytest.raises(ValueError, match=r"cannot decode .*River_4\.jpg"):
        read_all()


def test_broken_training_images_can_be_skipped(tmp_path: Path) -> None:
    write_copy("eurosat", tmp_path)
    for number in range(1, 11):
        (tmp_path / "eurosat" / "2750" / "River" / f"River_{number}.jpg").write_bytes(b"no image")
    data = make(tmp_path, broken="skip")
    with pytest.warns(UserWarning, match=r"River_\d+.jpg.*left out"):
        assert all(label < 2 for _, labels in data.train_dataloader() for label in labels)
    with pytest.raises(ValueError, match=r"broken: got 'skip', expected 'raise' with in_memory=True"):
        make(tmp_path, broken="skip", in_memory=True)


def test_a_home_folder_may_be_abbreviated(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(copies.parent))
    assert len(make(Path("~") / copies.name).test_set) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "eurosta"}, "dataset: got 'eurosta', expected a known one; nearest: eurosat"),
        ({"root": "nowhere"}, "root: nowhere is missing, expected the folder that eurosat is in"),
        ({"root": os.devnull}, f"root: {os.devnull} is not a folder"),
        ({"validate_on": "train"}, "validate_on: got 'train', expected one of val, test"),
        ({"val_share": 0.0}, "val_share: got 0.0, expected a finite number above 0"),
        ({"test_share": 1.0}, "test_share: got 1.0, expected a finite number above 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"mixup": -1.0}, "mixup: got -1.0"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(copies: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"root": copies, **wrong})
