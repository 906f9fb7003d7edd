"""Folders, files, images, class names, splits and options of datasets that are wrong: each is an error in words."""

import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from mhc_vision import hyperconnect
from mhc_vision.data import (
    DigitsDataModule,
    DownstreamDataModule,
    FakeDataModule,
    ImageFolderDataModule,
    InMemoryFolderDataModule,
    TimmDataModule,
)
from mhc_vision.data.decode import decode_file, decode_rgb
from mhc_vision.data.folders import class_folders, list_class_images
from mhc_vision.data.in_memory import InMemoryImages
from mhc_vision.data.transforms import eval_transform, train_transform
from mhc_vision.finetuning.start import start_from
from mhc_vision.inference.evaluation_images import evaluation_folder, list_flat_images
from mhc_vision.inference.folder_labels import folder_labels
from mhc_vision.inference.input_files import list_files
from mhc_vision.inference.load_model import load_model
from mhc_vision.inference.real_labels import load_real_labels, real_labels_of
from mhc_vision.models.create import create_classifier
from mhc_vision.training.module import ClassificationModule
from mhc_vision.training.resume import check_same_classes

Place = Path
NAMES = ["ant", "bee", "cat"]
CROP: dict[str, Any] = {
    **{"img_size": 8, "interpolation": "bilinear", "scale": (0.1, 1.0), "hflip": 0.5},
    **{"randaugment_ops": 0, "randaugment_magnitude": 0},
}


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (9, 9, 9)).save(file, "png")
    return file.getvalue()


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "tiff")
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Folders and files, whole and broken, that no row changes."""
    root = tmp_path_factory.mktemp("place")

    def write(path: str, content: bytes = png()) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)

    for split in ("train", "val"):
        for name in ("ant", "bee"):
            write(f"whole/{split}/{name}/0.png")
            write(f"whole/{split}/{name}/1.png")
        write(f"one/{split}/ant/0.png")
        write(f"foreign/{split}/ant/0.png")
        write(f"foreign/{split}/bee/0.tiff")
        write(f"hidden/{split}/ant/0.png")
        write(f"hidden/{split}/bee/._0.png")
        write(f"links/{split}/ant/0.png")
        write(f"links/{split}/bee/0.png")
        (root / "links" / split / "bee" / "theirs").symlink_to(root / "links" / split / "ant")
        write(f"flat/{split}/0.png")
        write(f"notes/{split}/ant/notes.txt", b"no image")
    for path in ("lacking/train/ant", "lacking/train/bee", "lacking/val/ant", "surplus/train/ant"):
        write(f"{path}/0.png")
    for path in ("surplus/val/ant", "surplus/val/bee", "only_train/train/ant"):
        write(f"{path}/0.png")
    (root / "empty").mkdir()
    write("a_file", b"text")
    images = root / "images"
    write("images/empty.jpg", b"")
    write("images/text.png", b"this is no image")
    write("images/cut.png", png((99, 99))[:40])
    write("images/svg.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    write("images/floats.tiff", tiff(np.array([[0.5, 1.0]], np.float32)))
    write("images/negative.tiff", tiff(np.array([[-5, 7]], np.int32)))
    write("images/cut.tiff", tiff(np.zeros((64, 64), np.uint8))[:100])
    write("images/text.pgm", b"P2 2 2 255 1 2 three 4")
    write("images/bomb.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6))
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (0, 200)]
    frames[0].save(images / "moving.png", "gif", save_all=True, append_images=frames[1:])
    os.mkfifo(images / "pipe.png")
    (images / "folder.png").mkdir()
    (images / "nowhere.png").symlink_to("missing")
    (images / "itself.png").symlink_to("itself.png")
    with tarfile.open(root / "veiled.tar", "w") as tar:
        tar.add(root / "whole" / "train" / "ant" / "0.png", "ant/._0.png")
    with tarfile.open(root / "without.tar", "w") as tar:
        tar.add(root / "a_file", "ant/a_file")
    write("broken.tar", b"no tar file")
    write("labels.json", json.dumps([[1], [1000]]).encode())
    write("labels.txt", b"[[1], ")
    write("labels_of_nothing.json", b"{}")
    write("ILSVRC2012_val_00000009.JPEG")
    model = timm.create_model("test_vit", img_size=32, num_classes=3)
    hyper = hyperconnect(model, "mhc", num_streams=2)
    for name, names in (
        ("named", NAMES),
        ("few", NAMES[:2]),
        ("many", [*NAMES, "dog"]),
        ("twice", ["ant", "ant", "bee"]),
    ):
        save_for_hf(model, str(root / name), model_config={"label_names": names}, safe_serialization=True)
    save_for_hf(hyper, str(root / "hyper"), model_config={"label_names": NAMES}, safe_serialization=True)
    record = {"global_step": 1, "FolderData": {"class_names": NAMES}}
    torch.save(record, root / "run.ckpt")
    return root


def folder(name: str, kind: type = ImageFolderDataModule, **options: Any) -> Callable[[Place], object]:
    return lambda place: kind(str(place / name), **{"img_size": 8, "batch_size": 1, **options})


def reader(**options: Any) -> Callable[[Place], object]:
    return lambda place: TimmDataModule(
        **{"dataset": "", "root": str(place / "whole"), "val_split": "val", "num_workers": 0, "img_size": 8, **options}
    )


def tars(name: str) -> Callable[[Place], object]:
    return lambda place: TimmDataModule(
        "", str(place), train_split=name, val_split=name, num_workers=0, img_size=8, batch_size=1
    )


def downstream(dataset: str = "eurosat", root: str = "empty", **options: Any) -> Callable[[Place], object]:
    return lambda place: DownstreamDataModule(dataset, str(place / root), **{"download": False, **options})


def decoded(name: str, decode: Callable[[str], object] = decode_file) -> Callable[[Place], object]:
    return lambda place: decode(str(place / "images" / name))


def started(name: str = "named", **options: Any) -> Callable[[Place], object]:
    return lambda place: start_from(str(place / name), **{"num_classes": 3, "img_size": 32, **options})


def validated(*names: str) -> Callable[[Place], object]:
    return lambda place: check_same_classes(place / "run.ckpt", SimpleNamespace(class_names=list(names)))  # type: ignore


def of_processes(count: int) -> Callable[[Place], object]:
    def load(place: Place) -> object:
        data = FakeDataModule(batch_size=1, img_size=8, num_images=8)
        data._process = lambda: (0, count)  # type: ignore[method-assign]
        return data.train_dataloader()

    return load


def without_images(_: Place) -> object:
    data = FakeDataModule(batch_size=1, img_size=8, num_images=8)
    data.eval_set = InMemoryImages(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    return data.val_dataloader()


def foreign_labels(_: Place) -> object:
    data = FakeDataModule(img_size=8, num_classes=3)
    data.class_names = ["ant", "bee"]
    return data.setup("fit")


def crop(**options: Any) -> Callable[[Place], object]:
    return lambda _: train_transform(**{**CROP, **options})


ROWS: dict[str, tuple[Callable[[Place], object], str]] = {
    # folders
    "root missing": (folder("nowhere"), "root: .*nowhere is missing; expected"),
    "root a file": (folder("a_file"), "root: .*a_file is not a folder; expected"),
    "root empty": (folder("empty"), "root: .*empty has no folder train; expected"),
    "no val": (folder("only_train"), "root: .*only_train has no folder val; expected"),
    "no class folders": (folder("flat"), "root: .*flat/train has no class folders; expected"),
    "class lacking in val": (folder("lacking"), "root: bee in .*lacking/train, but not in .*val"),
    "class lacking in train": (folder("surplus"), "root: bee in .*surplus/val, but not in .*train"),
    "class without images": (folder("notes"), "root: got no images in .*notes/train/ant"),
    "class of hidden files": (folder("hidden"), "root: got no images in .*hidden/train/bee"),
    "folder of two classes": (folder("links"), "root: got links that make .*train/ant part of the classes ant and bee"),
    "format of some tools": (folder("foreign"), r"root: .*0.tiff, expected .jpg, .jpeg, .png, .webp; convert"),
    "train_split empty": (folder("whole", train_split=""), "train_split: got '', expected the name of a folder"),
    "val_split empty": (folder("whole", val_split=""), "val_split: got '', expected the name of a folder"),
    "test_split empty": (folder("whole", test_split=""), "test_split: got '', expected the name of a folder"),
    "test_split missing": (folder("whole", test_split="test"), "has no folder test"),
    "classes empty": (
        folder("whole", classes=[]),
        r"classes: got \[\], expected the names of class folders, each once",
    ),
    "classes twice": (
        folder("whole", classes=["ant", "ant"]),
        "classes: got .* expected the names of class folders, each once",
    ),
    "classes unknown": (folder("whole", classes=["ant", "gnu"]), "has no folder gnu; it has ant, bee"),
    "metric": (folder("whole", metric="f1"), "metric: got 'f1', expected one of top1, mean_per_class"),
    "broken": (folder("whole", broken="ignore"), "broken: got 'ignore', expected one of raise, skip"),
    "in memory, root missing": (folder("nowhere", InMemoryFolderDataModule), "root: .*nowhere is missing"),
    "in memory, hidden files": (
        folder("hidden", InMemoryFolderDataModule),
        "root: got no images in .*hidden/train/bee",
    ),
    "in memory, too few": (
        folder("whole", InMemoryFolderDataModule, max_train_images=1),
        "max_train_images: got 1, expected at least 1 for each of 2 classes",
    ),
    "in memory, no validation": (
        folder("whole", InMemoryFolderDataModule, max_val_images=0),
        "max_val_images: got 0, expected a whole number from 1",
    ),
    "in memory, keep_on": (
        folder("whole", InMemoryFolderDataModule, keep_on="gpu"),
        "keep_on: got 'gpu', expected one of auto, cpu",
    ),
    "in memory, mean of one": (
        folder("whole", InMemoryFolderDataModule, mean=(0.5,)),
        r"mean: got \(0.5,\), expected 3 numbers",
    ),
    "mean of one": (folder("whole", mean=(0.5,)), r"mean: got \(0.5,\), expected 3 numbers"),
    "evaluate, no folder": (
        lambda place: evaluation_folder(place / "a_file"),
        "folder: got .*a_file, which is not a folder",
    ),
    "evaluate, missing": (
        lambda place: evaluation_folder(place / "nowhere"),
        "folder: got .*nowhere, which is missing",
    ),
    "evaluate, train only": (
        lambda place: evaluation_folder(place / "only_train"),
        "with train/ only, expected val/ or test/",
    ),
    "evaluate, empty": (lambda place: list_flat_images(place / "empty"), "without class folders and images"),
    "evaluate, foreign class": (
        lambda place: list_class_images(place / "whole" / "val", {"ant": 0, "gnu": 1}),
        "folder: .*val/gnu cannot be listed: No such file",
    ),
    "classes of a file": (lambda place: class_folders(place / "a_file"), "a_file cannot be listed: Not a directory"),
    "predict, missing": (
        lambda place: list_files([place / "nowhere"]),
        "images: got .*nowhere, expected files or folders that are there",
    ),
    "predict, empty": (
        lambda place: list_files([place / "empty"]),
        "images: got no files in .*empty, expected some that are not hidden",
    ),
    # timm's readers
    "reader, no such split": (reader(val_split="gone"), "expected a folder .*gone or a file .*gone.tar"),
    "reader, split without name": (reader(val_split=""), "val_split: got '', expected a folder or tar file in"),
    "reader, unknown prefix": (reader(dataset="ffcv/x"), "expected hfds/..., wds/..., torch/... or an empty name"),
    "reader, unknown set": (reader(dataset="torch/nothing"), "'torch/nothing' .* cannot be opened"),
    "reader, no images": (
        lambda place: reader(root=str(place / "notes"))(place),
        "root: got no images in .*notes/train",
    ),
    "reader, no classes": (
        lambda place: reader(root=str(place / "flat"))(place),
        "expected images in class folders only",
    ),
    "reader, torchvision": (
        lambda place: reader(root=str(place / "hidden"), dataset="torch/image_folder")(place),
        "root: got no images in .*hidden/train/bee",
    ),
    "reader, torchvision split": (
        reader(dataset="torch/image_folder", val_split="gone"),
        "expected a folder gone in it",
    ),
    "reader, name for one class": (
        reader(class_names=["ant"]),
        "class_names: got 1, expected one for each of the dataset's 2 classes",
    ),
    "reader, names for three": (
        reader(class_names=NAMES),
        "class_names: got 3, expected one for each of the dataset's 2 classes",
    ),
    "reader, no names": (reader(class_names=[]), "class_names: got an empty list"),
    "reader, one name twice": (reader(class_names=["ant", "ant"]), "class_names: got ant more than once"),
    "reader, num_classes": (reader(num_classes=5), "num_classes: got 5, expected 2, the number of class names"),
    "reader, no class": (reader(num_classes=0), "num_classes"),
    "reader, shuffle_buffer": (reader(shuffle_buffer=0), "shuffle_buffer"),
    "tar of hidden files": (tars("veiled"), "root: got no images in .*veiled.tar, expected some that are not hidden"),
    "tar without images": (tars("without"), "dataset: '' with split 'without' cannot be opened"),
    "tar that is none": (tars("broken"), "dataset: '' with split 'broken' cannot be opened"),
    # files
    "file missing": (decoded("gone.png"), "cannot read .*gone.png: missing"),
    "file missing, training": (decoded("gone.png", decode_rgb), "cannot decode .*gone.png: missing"),
    "file empty": (decoded("empty.jpg"), "cannot decode .*empty.jpg: got an empty file"),
    "file empty, training": (decoded("empty.jpg", decode_rgb), "cannot decode .*empty.jpg: empty, truncated"),
    "file of text": (decoded("text.png"), "cannot decode .*text.png: got no image"),
    "file of text, training": (decoded("text.png", decode_rgb), "cannot decode .*text.png"),
    "drawing": (decoded("svg.jpg"), "cannot decode .*svg.jpg: got no image or an unknown format"),
    "png cut short": (decoded("cut.png"), "cannot decode .*cut.png: truncated or damaged"),
    "tiff cut short": (decoded("cut.tiff"), "cannot decode .*cut.tiff"),
    "pgm with a word": (decoded("text.pgm"), "cannot decode .*text.pgm: truncated, too large or not an image"),
    "bomb": (decoded("bomb.bmp"), "cannot decode .*bomb.bmp: .*3600000000 pixels"),
    "floats": (decoded("floats.tiff"), "cannot use .*floats.tiff: got floating-point pixels"),
    "negative grey": (
        decoded("negative.tiff"),
        "cannot use .*negative.tiff: got grey values from -5 to 7, expected 0 to",
    ),
    "animation": (decoded("moving.png", decode_rgb), "cannot use .*moving.png: .* 2 frames"),
    "pipe": (decoded("pipe.png"), "cannot read .*pipe.png: no regular file"),
    "pipe, training": (decoded("pipe.png", decode_rgb), "cannot decode .*pipe.png: no regular file"),
    "folder": (decoded("folder.png"), "cannot read .*folder.png: no regular file"),
    "broken link": (decoded("nowhere.png"), "cannot read .*nowhere.png: missing"),
    "link to itself": (decoded("itself.png", decode_rgb), "cannot decode .*itself.png: missing"),
    # downstream sets
    "set unknown": (downstream("cifar11"), "dataset: got 'cifar11', expected a known one; nearest: cifar10"),
    "set of no name": (downstream(""), "dataset: got '', expected one of caltech101"),
    "set, root missing": (
        downstream(root="nowhere"),
        "root: .*nowhere is missing, expected the folder that eurosat is",
    ),
    "set, root a file": (downstream(root="a_file"), "root: .*a_file is not a folder"),
    "set, not there": (downstream(), "eurosat"),
    "set, validate_on": (downstream(validate_on="train"), "validate_on: got 'train', expected one of val, test"),
    "set, val_share 0": (downstream(val_share=0.0), "val_share"),
    "set, val_share 1": (downstream(val_share=1.0), "val_share"),
    "set, test_share": (downstream(test_share=-0.1), "test_share"),
    "set, skip in memory": (
        downstream(in_memory=True, broken="skip"),
        "broken: got 'skip', expected 'raise' with in_memory=True",
    ),
    # transforms
    "size 0": (crop(img_size=0), "img_size"),
    "interpolation": (crop(interpolation="nearest"), "interpolation: got 'nearest', expected one of bilinear"),
    "scale upside down": (crop(scale=(0.9, 0.1)), "train_scale"),
    "scale of nothing": (crop(scale=(0.0, 1.0)), "train_scale"),
    "flip": (crop(hflip=1.5), "hflip"),
    "operations": (crop(randaugment_ops=-1), "randaugment_ops"),
    "magnitude": (crop(randaugment_magnitude=31), "randaugment_magnitude"),
    "two augmentations": (
        crop(three_augment=True, randaugment_ops=2),
        "randaugment_ops: got 2, expected 0: three_augment",
    ),
    "jitter": (crop(color_jitter=-0.1), "color_jitter"),
    "crop_pct 0": (lambda _: eval_transform(8, "bilinear", 0.0), "crop_pct"),
    "crop_pct 2": (lambda _: eval_transform(8, "bilinear", 2.0), "crop_pct"),
    "crop_mode": (
        lambda _: eval_transform(8, "bilinear", 1.0, "border"),
        "crop_mode: got 'border', expected one of center, squash",
    ),
    # sizes of what is in memory
    "no images": (lambda _: FakeDataModule(num_images=0), "num_images"),
    "no classes": (lambda _: FakeDataModule(num_classes=0), "num_classes"),
    "no pixels": (lambda _: FakeDataModule(img_size=0), "img_size"),
    "no batch": (lambda _: DigitsDataModule(batch_size=0), "batch_size"),
    "half a batch of processes": (lambda _: FakeDataModule(total_batch_size=0), "total_batch_size"),
    "workers on a device": (
        lambda _: FakeDataModule(keep_on="device", num_workers=2),
        "num_workers: got 2, expected 0 with keep_on",
    ),
    "more processes than images": (of_processes(3), "got 2 validation images for 3 processes, expected one each"),
    "more processes than training": (of_processes(9), "got 8 training samples, expected at least 9"),
    "no validation images": (without_images, "got 0 validation images for 1 processes"),
    "labels beyond the names": (foreign_labels, "got labels from 0 to 2, expected 0 to 1: there are names for 2"),
    # classes and heads
    "one class": (lambda _: ClassificationModule("test_vit", 1), "num_classes: got 1, expected at least 2"),
    "fewer names than outputs": (lambda place: load_model(str(place / "few")), "got 2 class names, .* of 3 classes"),
    "more names than outputs": (lambda place: load_model(str(place / "many")), "got 4 class names, .* of 3 classes"),
    "one name for two outputs": (lambda place: load_model(str(place / "twice")), "got ant more than once"),
    "start, fewer names": (
        started(class_names=NAMES[:2]),
        "class_names: got 2 class names, expected one for each of 3",
    ),
    "start, one name twice": (started(class_names=["ant", "ant", "bee"]), "class_names: got ant more than once"),
    "start, null for mhc": (started("hyper", connection=None), "connection: got null, expected 'mhc', as .* trained"),
    "start, shc for mhc": (started("hyper", connection="shc"), "connection: got 'shc', expected 'mhc', as .* trained"),
    "start, streams": (started("hyper", num_streams=4), "num_streams: got 4, expected 2, with which .* was trained"),
    "start, registered name": (
        lambda _: start_from("test_vit_mhc", num_classes=3, connection=None),
        "got null for test",
    ),
    "validate, other classes": (
        validated("ant", "bee", "gnu"),
        "data: got the classes gnu, expected in their place cat, with",
    ),
    "validate, other order": (validated("bee", "ant", "cat"), r"data: got the classes in the order \['bee', 'ant'"),
    "folders of nobody": (lambda _: folder_labels(["x", "y"], 3, {}), "do not tell which of the model's 3 classes"),
    "folders of some": (
        lambda _: folder_labels(["ant", "x"], 2, {"ant": 0, "bee": 1}),
        "folder: got x, expected names of the model's 2 classes",
    ),
    "folder numbers": (lambda _: folder_labels(["0", "7"], 3, {}), "class numbers 7 are too large for a model of 3"),
    "ReaL missing": (lambda place: load_real_labels(str(place / "gone")), "real_labels: .*gone cannot be read"),
    "ReaL no JSON": (lambda place: load_real_labels(str(place / "labels.txt")), "real_labels: got .* expected JSON"),
    "ReaL of nothing": (
        lambda place: load_real_labels(str(place / "labels_of_nothing.json")),
        "expected a list with a list of labels for each image",
    ),
    "ReaL label 1000": (lambda place: load_real_labels(str(place / "labels.json")), "entry 1: got .*1000"),
    "ReaL of other files": (
        lambda _: real_labels_of(["0.png"], [[1]]),
        "expected a name as ILSVRC2012_val_00000001.JPEG",
    ),
    "ReaL too short": (
        lambda _: real_labels_of(["ILSVRC2012_val_00000009.JPEG"], [[1]]),
        "image 9, expected 1 to 1",
    ),
    # sizes that patches do not fill
    "size, train": (
        lambda _: create_classifier("test_vit", connection=None, num_streams=1, num_classes=2, img_size=40),
        "img_size: got 40 for test_vit, expected a multiple of its patches' 16 pixels",
    ),
    "size, design": (
        lambda _: create_classifier("test_vit", connection="post_norm", num_streams=1, num_classes=2, img_size=40),
        "img_size: got 40 for test_vit, expected a multiple",
    ),
    "size, finetune": (started(img_size=40), "img_size: got 40 for .*named, expected a multiple"),
    "size, evaluate": (lambda place: load_model(str(place / "named"), img_size=33), "img_size: got 33 for .*named"),
    "size, nothing": (
        lambda place: load_model(str(place / "named"), img_size=0),
        "img_size: got 0, expected a whole number from 1",
    ),
    "size, create_model": (
        lambda _: timm.create_model("test_vit_mhc", img_size=40),
        "got 40 for test_vit_mhc, expected",
    ),
    "size, hyperconnect": (
        lambda _: hyperconnect(timm.create_model("test_vit", img_size=(32, 40)), "mhc"),
        "img_size: got 40 for VisionTransformer, expected a multiple",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_it_is_refused_in_words(place: Place, row: str) -> None:
    do, words = ROWS[row]
    with pytest.raises(ValueError, match=words):
        do(place)
