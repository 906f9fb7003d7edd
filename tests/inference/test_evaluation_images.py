from pathlib import Path

import pytest
import torch
from torchvision.io import write_png
from torchvision.transforms import v2

from mhc_vision.data.transforms import eval_transform
from mhc_vision.inference.evaluation_images import (
    EvaluationImages,
    collate_readable,
    evaluation_folder,
    list_flat_images,
)


def write(path: Path, value: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(torch.full((3, 8, 16), value, dtype=torch.uint8), str(path))
    return str(path)


def test_val_is_taken_before_test_and_both_before_the_folder(tmp_path):
    for name in ("cat", "test", "val"):
        (tmp_path / name).mkdir()
        expected = tmp_path if name == "cat" else tmp_path / name
        assert evaluation_folder(tmp_path) == expected


def test_what_cannot_be_evaluated_is_named(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="without class folders and images"):
        list_flat_images(tmp_path)
    (tmp_path / "b" / "0.tiff").touch()
    with pytest.raises(ValueError, match=r"folder: .*0.tiff, expected .jpg"):
        list_flat_images(tmp_path / "b")
    with pytest.raises(ValueError, match="is not a folder"):
        evaluation_folder(tmp_path / "b" / "0.tiff")


def test_unreadable_images_are_told_apart_from_the_others(tmp_path):
    paths = [write(tmp_path / "0.png", 10), str(tmp_path / "broken.png"), write(tmp_path / "2.png", 30)]
    dataset = EvaluationImages(paths, eval_transform(8, "bilinear", 1.0))
    indices, images, errors = collate_readable([dataset[index] for index in range(3)])
    assert indices.tolist() == [0, 2]
    assert images.shape == (2, 3, 8, 8)
    assert images[:, 0, 0, 0].tolist() == [10, 30]
    assert [error.split(":")[0] for error in errors] == [f"cannot decode {tmp_path / 'broken.png'}"]
    assert len(collate_readable([dataset[1]])[0]) == 0


def test_squashing_keeps_what_a_centre_crop_cuts_off():
    image = torch.zeros(3, 16, 64, dtype=torch.uint8)
    image[:, :, :16] = 255
    assert eval_transform(16, "bilinear", 1.0)(image).max() == 0
    squashed = eval_transform(16, "bilinear", 1.0, "squash")(image)
    assert squashed.shape == (3, 16, 16)
    # a quarter of the width is white
    assert squashed[:, :, :3].min() > 250
    with pytest.raises(ValueError, match="crop_mode: got 'border', expected one of center, squash"):
        eval_transform(16, "bilinear", 1.0, "border")


def test_an_elongated_image_is_cut_to_its_middle_before_it_is_resized():
    image = torch.zeros(3, 1, 100_000, dtype=torch.uint8)
    image[:, :, 49_000:51_000] = 255
    # whole, a row resized to 64 pixels of height would have 1.2 GB
    cropped = eval_transform(64, "bilinear", 1.0)(image)
    assert cropped.shape == (3, 64, 64)
    assert cropped.min() == 255
    assert torch.equal(eval_transform(64, "bilinear", 1.0)(image.transpose(-1, -2)), cropped)
    # 8 times as long as it is wide: as torchvision does it
    photo = torch.randint(256, (3, 8, 64), dtype=torch.uint8)
    whole = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])(photo)
    assert torch.equal(eval_transform(16, "bilinear", 1.0)(photo), whole)
