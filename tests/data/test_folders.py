from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from mhc_vision.data import ImageFolderDataModule, InMemoryFolderDataModule
from mhc_vision.data.folders import class_folders, list_class_images


def write(path: Path, value: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(torch.full((3, 8, 16), value, dtype=torch.uint8), str(path))
    return str(path)


def test_images_have_the_label_of_their_folder(tmp_path):
    paths = {name: write(tmp_path / name) for name in ("b/deep/2.png", "b/1.png", "a/9.PNG")}
    (tmp_path / "a" / "notes.txt").write_text("no image")
    write(tmp_path / ".hidden" / "0.png")
    assert class_folders(tmp_path) == ["a", "b"]
    found, labels = list_class_images(tmp_path, {"a": 7, "b": 3})
    assert dict(zip(found, labels, strict=True)) == {
        paths["a/9.PNG"]: 7,
        paths["b/1.png"]: 3,
        paths["b/deep/2.png"]: 3,
    }


def test_classes_without_images_and_other_formats_are_named_with_the_argument(tmp_path):
    write(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=f"^folder: got no images in {tmp_path / 'b'}, expected some of each class$"):
        list_class_images(tmp_path, {"a": 0, "b": 1})
    (tmp_path / "b" / "0.tiff").touch()
    with pytest.raises(ValueError, match=r"^root: .*0.tiff, expected .jpg"):
        list_class_images(tmp_path, {"a": 0, "b": 1}, "root")


@pytest.mark.parametrize("kind", [ImageFolderDataModule, InMemoryFolderDataModule])
def test_hidden_folders_are_no_classes_in_training_either(tmp_path, kind):
    for split in ("train", "val"):
        for index, name in enumerate(("cat", "dog")):
            write(tmp_path / split / name / "0.png", 100 * index)
    # sorted before the classes, whose labels they would move
    write(tmp_path / "train" / ".ipynb_checkpoints" / "0-checkpoint.png", 255)
    (tmp_path / "val" / ".cache").mkdir()
    data = kind(str(tmp_path), batch_size=2, img_size=8)
    data.num_workers = 0
    assert data.class_names == class_folders(tmp_path / "val") == ["cat", "dog"]
    for loader in (data.train_dataloader(), data.val_dataloader()):
        (images, labels), *others = loader
        assert not others
        assert sorted(zip(labels.tolist(), images.amax((1, 2, 3)).tolist(), strict=True)) == [(0, 0), (1, 100)]
