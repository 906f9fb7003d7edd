import io
import tarfile
from pathlib import Path

import pytest
import timm
from documents import ROOT
from hub_copies import write_hub_dataset
from masked_copies import write_folder
from safetensors.torch import save_file
from timm.models import save_for_hf
from torchvision_copies import accept_any_checksum, write_copy, write_image

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WORDNET_IDS = ("n01440764", "n01443537")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the repository's files, and small stand-ins for what a user has.

    CIFAR-100 and Flowers-102 in DATA, and folders of images: PHOTOS, CIFAR10, IMAGENET, IMAGENETV2; with masks: MASKS.
    `published/` is a ViT of 1,000 classes in place of published weights.
    """
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    accept_any_checksum(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "examples", "benchmarks", "train_imagenet.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_image(tmp_path / "cat.jpg", 0)
    for name in ("cifar100", "flowers102"):
        write_copy(name, tmp_path / "DATA")
    write_copy("cifar10", tmp_path / "cifar10")
    write_hub_dataset(tmp_path / "beans", "labels", {"train": 4, "validation": 2, "test": 2})
    write_hub_dataset(tmp_path / "PARQUET", "label", {"train": 8, "validation": 4})
    _write_folder(tmp_path / "PHOTOS", ("train", "val", "test"), ("cat", "dog"), 2)
    _write_folder(tmp_path / "CIFAR10", ("train", "test"), CIFAR10, 2)
    for split, prefix in (("train", "n"), ("val", "ILSVRC2012_val_0000000")):
        for number in range(8):
            write_image(tmp_path / "IMAGENET" / split / WORDNET_IDS[number % 2] / f"{prefix}{number + 1}.JPEG", number)
    _write_shards(tmp_path / "SHARDS", tmp_path / "cat.jpg")
    _write_folder(tmp_path, ("IMAGENETV2",), ("0", "1"), 1)
    model = timm.create_model("test_vit", depth=1, num_classes=1000)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    save_file(timm.create_model("test_vit", depth=4).state_dict(), tmp_path / "four_blocks.safetensors")
    write_folder(tmp_path / "MASKS")
    save_for_hf(model, str(tmp_path / "published"), safe_serialization=True)
    return tmp_path


def _write_folder(folder: Path, splits: tuple[str, ...], classes: tuple[str, ...], count: int) -> None:
    for split in splits:
        for label, name in enumerate(classes):
            for index in range(count):
                write_image(folder / split / name / f"{index}.jpg", 40 * label % 120)


def _write_shards(folder: Path, image: Path) -> None:
    """Two shards of four samples for each split."""
    folder.mkdir()
    for name in ("train-0", "train-1", "val-0", "val-1"):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for sample in range(4):
                for suffix, content in (("jpg", image.read_bytes()), ("cls", b"%d" % sample)):
                    entry = tarfile.TarInfo(f"{sample:04}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
