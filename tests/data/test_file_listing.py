"""One rule of what is listed, wherever the library reads folders: nothing hidden, and links come to an end."""

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png
from torchvision_copies import accept_any_checksum, write_copy

from mhc_vision.data import DownstreamDataModule, ImageFolderDataModule, InMemoryFolderDataModule, TimmDataModule
from mhc_vision.data.folders import class_folders, is_hidden, list_class_images, walk_files
from mhc_vision.inference.evaluation_images import list_flat_images
from mhc_vision.inference.input_files import list_files

IMAGES = ("cat/0.png", "cat/deep/1.png", "dog/0.png", "dog/1.png")


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(torch.zeros(3, 8, 8, dtype=torch.uint8), str(path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits of four images, with what macOS, Jupyter and careless links leave there."""
    for split in ("train", "val"):
        for image in IMAGES:
            write(tmp_path / split / image)
        write(tmp_path / split / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png")
        write(tmp_path / split / ".ipynb_checkpoints" / "0-checkpoint.png")
        (tmp_path / split / "cat" / "._0.png").write_bytes(b"no image")
        (tmp_path / split / "cat" / "loop").symlink_to(tmp_path / split / "cat")
        (tmp_path / split / "cat" / "up").symlink_to(tmp_path)
        (tmp_path / split / "dog" / "all").symlink_to("..")
        (tmp_path / split / "again").symlink_to(".")
    return tmp_path


def of_images(root: Path) -> list[str]:
    return [path for split in ("train", "val") for path in list_class_images(root / split, {"cat": 0, "dog": 1})[0]]


def of_module(kind: type) -> Callable[[Path], list[str]]:
    def paths(root: Path) -> list[str]:
        data = kind(str(root), batch_size=1, img_size=8)
        assert data.class_names == ["cat", "dog"]
        if kind is InMemoryFolderDataModule:
            return [path for path, _ in data._train_files + data._val_files]
        return [path for path, _ in data.train_set.samples + data.eval_set.samples]

    return paths


def of_reader(root: Path) -> list[str]:
    for split in ("train", "val"):
        # timm's classes are the folders that images lie in
        shutil.move(root / split / "cat" / "deep" / "1.png", root / split / "cat" / "1.png")
    data = TimmDataModule("", str(root), val_split="val", batch_size=1, num_workers=0, img_size=8)
    assert data.class_names == ["cat", "dog"]
    found = [path for path, _ in data.train_set.reader.samples + data.eval_set.reader.samples]
    return [path.replace("cat/1.png", "cat/deep/1.png") for path in found]


def of_torchvision(root: Path) -> list[str]:
    data = TimmDataModule("torch/image_folder", str(root), batch_size=1, num_workers=0, img_size=8)
    assert data.class_names == ["cat", "dog"]
    assert data.eval_set[0][0].shape == (3, 8, 8)
    return [path for path, _ in data.train_set.dataset.samples + data.eval_set.dataset.samples]


def of_prediction(root: Path) -> list[str]:
    return [path for split in ("train", "val") for path in list_files([root / split])]


PLACES = {
    "evaluate, analyze": of_images,
    "predict": of_prediction,
    "ImageFolderDataModule": of_module(ImageFolderDataModule),
    "InMemoryFolderDataModule": of_module(InMemoryFolderDataModule),
    "TimmDataModule": of_reader,
    "TimmDataModule, torchvision": of_torchvision,
}


@pytest.mark.parametrize("place", PLACES)
def test_hidden_files_and_links_in_circles_are_no_images(root: Path, place: str) -> None:
    expected = [str(root / split / image) for split in ("train", "val") for image in IMAGES]
    assert sorted(PLACES[place](root)) == expected


def test_classes_and_flat_folders_follow_the_same_rule(root: Path) -> None:
    assert class_folders(root / "train") == ["cat", "dog"]
    assert list_flat_images(root / "train" / "cat") == [str(root / "train" / "cat" / "0.png")]


def test_links_elsewhere_are_followed_once_and_the_order_is_that_of_torchvision(tmp_path: Path) -> None:
    write(tmp_path / "away" / "3.png")
    for image in ("a/b/2.png", "a/b.png", "a/a/9.png", "a/z.png"):
        write(tmp_path / "folder" / image)
    (tmp_path / "folder" / "a" / "c").symlink_to(tmp_path / "away")
    (tmp_path / "folder" / "a" / "d").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "back").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "a" / "self").symlink_to("self")
    paths, _ = list_class_images(tmp_path / "folder", {"a": 0})
    expected = ["b.png", "z.png", "a/9.png", "b/2.png", "c/3.png"]
    assert [os.path.relpath(path, tmp_path / "folder" / "a") for path in paths] == expected


def test_many_links_in_circles_take_no_longer(tmp_path: Path) -> None:
    write(tmp_path / "a" / "0.png")
    for number in range(20):
        (tmp_path / "a" / f"link{number}").symlink_to(tmp_path / "a")
    assert [files for _, _, files in walk_files(tmp_path)] == [[], ["0.png"]]


def test_one_folder_in_two_classes_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "0.png")
    write(tmp_path / "b" / "0.png")
    (tmp_path / "a" / "theirs").symlink_to(tmp_path / "b")
    with pytest.raises(
        ValueError, match=r"got links that make .*/b part of the classes a and b in .*; take a link away"
    ):
        list_class_images(tmp_path, {"a": 0, "b": 1})


def test_hidden_members_of_a_tar_file_are_no_images(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat/loop", "cat/up", "dog/all", "again"):
            (root / split / name).unlink()
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            tar.add(root / split, ".")
        shutil.rmtree(root / split)
    data = TimmDataModule("", str(root), val_split="val", batch_size=1, num_workers=0, img_size=8)
    assert data.class_names == ["cat", "deep", "dog"]
    assert [label for _, label in map(data.train_set.__getitem__, range(len(data.train_set)))] == [0, 1, 2, 2]


@pytest.mark.parametrize("dataset", ["eurosat", "country211", "gtsrb", "rendered_sst2"])
def test_downstream_sets_leave_out_what_is_hidden(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_any_checksum(monkeypatch)
    write_copy(dataset, tmp_path)

    def make() -> DownstreamDataModule:
        return DownstreamDataModule(
            dataset, str(tmp_path), batch_size=1, num_workers=0, img_size=8, complete=False, download=False
        )

    clean = make()
    for path in [path for path in tmp_path.rglob("*.*") if path.suffix in (".jpg", ".png", ".ppm")]:
        shutil.copy(path, path.with_name(f"._{path.name}"))
    for folder in {path.parent for path in tmp_path.rglob("._*")}:
        shutil.copytree(folder, folder / ".ipynb_checkpoints")
        if dataset == "eurosat":
            shutil.copytree(folder, folder.parent / ".cache", dirs_exist_ok=True)
    data = make()
    assert data.class_names == clean.class_names
    for name in ("train_set", "eval_set", "test_set"):
        labels = [
            [label for _, label in map(samples.__getitem__, range(len(samples)))]
            for samples in (getattr(module, name) for module in (clean, data))
        ]
        assert labels[0] == labels[1]
    place = next(path.parent for path in tmp_path.rglob("*.[jp][pn][gm]") if not any(map(is_hidden, path.parts)))
    (place / "loop").symlink_to(place.parent)
    with pytest.raises(ValueError, match=r"dataset: got the link .*/loop back to .*; take it away"):
        make()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "deep" / "0.png")
    (tmp_path / "a" / "deep").chmod(0)
    try:
        with pytest.raises(ValueError, match=r"folder: .*/deep cannot be listed: Permission denied"):
            list_class_images(tmp_path, {"a": 0})
    finally:
        (tmp_path / "a" / "deep").chmod(0o700)
