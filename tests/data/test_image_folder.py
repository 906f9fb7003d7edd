import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.io import write_jpeg

from mhc_vision.data import ImageFolderDataModule

COLOURS = {"blue": (20, 30, 220), "green": (30, 200, 40), "red": (210, 20, 30)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of one colour each: 4 training images and 3 for validation, of different shapes."""
    for split, count in (("train", 4), ("val", 3)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)
                write_jpeg(pixels.repeat(1, 40 + 8 * index, 56), str(folder / f"{index}.jpg"))
    return tmp_path / "images"


def make(root: Path, **options: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(**{"root": str(root), "batch_size": 4, "num_workers": 0, "img_size": 32, **options})


def test_describes_itself_at_construction(root: Path) -> None:
    data = make(root)
    assert (data.num_classes, data.class_names) == (3, ["blue", "green", "red"])
    assert (data.in_chans, data.img_size, data.batch_size) == (3, 32, 4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_uint8_images_of_their_class(root: Path, num_workers: int) -> None:
    data = make(root, num_workers=num_workers)
    colours = torch.tensor(list(COLOURS.values())).float()
    for loader, num_images in ((data.train_dataloader(), 12), (data.val_dataloader(), 9), (data.test_dataloader(), 9)):
        batches = list(loader)
        assert sum(len(labels) for _, labels in batches) == num_images
        for images, labels in batches:
            assert (images.dtype, images.shape[1:]) == (torch.uint8, (3, 32, 32))
            assert labels.dtype == torch.int64
            # JPEG moves a colour by a few units
            torch.testing.assert_close(images.float().mean((2, 3)), colours[labels], atol=4, rtol=0)


def test_randaugment_changes_training_images_only(root: Path) -> None:
    torch.manual_seed(0)
    data = make(root, randaugment_ops=2, randaugment_magnitude=20)
    images, labels = next(iter(data.train_dataloader()))
    plain = torch.tensor(list(COLOURS.values())).float()[labels]
    assert images.dtype == torch.uint8
    assert (images.float().mean((2, 3)) - plain).abs().max() > 10
    images, labels = next(iter(data.val_dataloader()))
    assert (images.float().std((2, 3)) < 2).all()


def test_three_augment_greys_solarises_or_blurs_each_training_image(root: Path) -> None:
    data = make(root, batch_size=12, three_augment=True)
    images, labels = next(iter(data.train_dataloader()))
    means = images.float().mean((2, 3))
    plain = torch.tensor(list(COLOURS.values())).float()[labels]
    grey = (means.std(1) < 1).tolist()
    blurred = ((means - plain).abs().max(1).values < 5).tolist()
    solarised = [not a and not b for a, b in zip(grey, blurred, strict=True)]
    # of 12 images, each kind has some with a probability of 98 %; the seed is fixed
    assert any(grey)
    assert any(blurred)
    assert any(solarised)


def test_color_jitter_moves_colours_in_training(root: Path) -> None:
    images, labels = next(iter(make(root, color_jitter=0.3).train_dataloader()))
    plain = torch.tensor(list(COLOURS.values())).float()[labels]
    difference = (images.float().mean((2, 3)) - plain).abs()
    assert 5 < difference.max() < 120


def test_evaluation_resizes_and_crops_as_timm(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = tmp_path / split / "gradient"
        folder.mkdir(parents=True)
        ramp = torch.arange(0, 250, dtype=torch.uint8).expand(3, 50, 250).contiguous()
        write_jpeg(ramp, str(folder / "0.jpg"), quality=100)
    data = make(tmp_path, img_size=32, crop_pct=0.875, batch_size=1)
    image = next(iter(data.val_dataloader()))[0][0].float()
    # 250 x 50 becomes 180 x 36 (floor(32 / 0.875) = 36), of which columns 74 to 105 stay: grey 104 to 145
    torch.testing.assert_close(image[0, 16, [0, -1]], torch.tensor([103.0, 146.0]), atol=2, rtol=0)


def test_targets_are_soft_in_training_and_hard_in_validation(root: Path) -> None:
    data = make(root, mixup=0.8, cutmix=1.0)
    batch = next(iter(data.train_dataloader()))
    data.trainer = SimpleNamespace(training=True)
    images, targets = data.on_after_batch_transfer(batch, 0)
    assert (images.dtype, images.shape) == (torch.float32, (4, 3, 32, 32))
    assert (targets.dtype, targets.shape) == (torch.float32, (4, 3))
    data.trainer = SimpleNamespace(training=False)
    images, targets = data.on_after_batch_transfer(batch, 0)
    assert torch.equal(targets, batch[1])
    torch.testing.assert_close(images, batch[0] / 127.5 - 1)


def test_processes_share_the_images(root: Path) -> None:
    counts = {"train": [], "val": []}
    for rank in range(2):
        data = make(root, batch_size=2)
        data.trainer = SimpleNamespace(
            strategy=None, training=False, global_rank=rank, world_size=2, callbacks=[], accumulate_grad_batches=1
        )
        counts["train"].append(len(data.train_dataloader()))
        counts["val"].append(sum(len(labels) for _, labels in data.val_dataloader()))
    assert counts == {"train": [3, 3], "val": [5, 4]}


def test_too_few_images_for_all_processes(root: Path) -> None:
    data = make(root, batch_size=7)
    data.trainer = SimpleNamespace(
        strategy=None, training=False, global_rank=0, world_size=2, callbacks=[], accumulate_grad_batches=1
    )
    with pytest.raises(
        ValueError, match=r"got 12 training samples, expected at least 14: batch_size=7 in each of 2 processes"
    ):
        data.train_dataloader()


def test_missing_root_shows_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}/nowhere is missing(.|\n)*nowhere/train/<class name>/"):
        make(tmp_path / "nowhere")


def test_empty_root_shows_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} has no folder train(.|\n)*/val/<class name>/"):
        make(tmp_path)


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is not a folder"):
        make(tmp_path / "file")


def test_missing_val(root: Path) -> None:
    shutil.rmtree(root / "val")
    with pytest.raises(ValueError, match=f"{root} has no folder val"):
        make(root)


def test_splits_may_have_other_names(root: Path) -> None:
    (root / "val").rename(root / "test")
    (root / "train").rename(root / "training")
    data = make(root, train_split="training", val_split="test")
    assert (len(data.train_set), len(data.eval_set)) == (12, 9)
    shutil.rmtree(root / "test" / "red")
    with pytest.raises(
        ValueError, match=f"red in {root}/training, but not in {root}/test(.|\n)*{root}/test/<class name>"
    ):
        make(root, train_split="training", val_split="test")


def test_a_test_split_of_its_own(root: Path) -> None:
    data = make(root)
    assert data.test_set is data.eval_set
    assert data.metric == "top1"
    shutil.copytree(root / "val", root / "test")
    for name in COLOURS:
        (root / "test" / name / "2.jpg").unlink()
    data = make(root, test_split="test", metric="mean_per_class")
    assert [len(samples) for samples in (data.train_set, data.eval_set, data.test_set)] == [12, 9, 6]
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 6
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 9
    assert data.metric == "mean_per_class"
    # neither matters to what is trained
    make(root).load_state_dict(data.state_dict())
    shutil.rmtree(root / "test" / "red")
    with pytest.raises(ValueError, match=f"red in {root}/train, but not in {root}/test(.|\n)*{root}/test/<class name>"):
        make(root, test_split="test")


def test_some_of_the_classes_in_an_order_of_their_own(root: Path) -> None:
    shutil.rmtree(root / "val" / "green")
    data = make(root, classes=["red", "blue"])
    assert data.class_names == ["red", "blue"]
    colours = torch.tensor([COLOURS["red"], COLOURS["blue"]]).float()
    for loader, count in ((data.train_dataloader(), 8), (data.val_dataloader(), 6)):
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert len(labels) == count
        torch.testing.assert_close(images.float().mean((2, 3)), colours[labels], atol=4, rtol=0)
    with pytest.raises(ValueError, match=f"classes: {root}/val has no folder green; it has blue, red"):
        make(root, classes=["green", "blue"])
    for classes in ([], ["red", "red"]):
        with pytest.raises(ValueError, match=r"classes: got .* expected the names of class folders, each once"):
            make(root, classes=classes)


def test_no_class_folders(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    (root / "val" / "loose.jpg").touch()
    with pytest.raises(ValueError, match="val has no class folders"):
        make(root)


@pytest.mark.parametrize(("extra", "other"), [("train", "val"), ("val", "train")])
def test_classes_that_differ_are_named(root: Path, extra: str, other: str) -> None:
    for index in range(7):
        (root / extra / f"odd{index}").mkdir()
    expected = f"odd0, odd1, odd2, odd3, odd4 and 2 more in {root / extra}, but not in {root / other}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        make(root)


def test_class_without_images_is_named(root: Path) -> None:
    shutil.rmtree(root / "val" / "green")
    (root / "val" / "green").mkdir()
    (root / "val" / "green" / "readme.txt").touch()
    with pytest.raises(ValueError, match=f"no images in {root}/val/green"):
        make(root)


def test_format_that_cannot_be_decoded_is_named(root: Path) -> None:
    (root / "train" / "red" / "scan.TIFF").touch()
    with pytest.raises(ValueError, match=r"red/scan\.TIFF, expected \.jpg"):
        make(root)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_broken_image_is_named_when_it_is_read(root: Path, split: str, num_workers: int) -> None:
    broken = root / split / "red" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    data = make(root, num_workers=num_workers)
    with pytest.raises(ValueError, match=f"cannot decode {broken}"):
        list(data.train_dataloader() if split == "train" else data.val_dataloader())


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"num_workers": -1},
        {"img_size": 0},
        {"crop_pct": 0.0},
        {"crop_pct": 1.5},
        {"interpolation": "lanczos"},
        {"train_scale": (0.5, 0.1)},
        {"hflip": 1.5},
        {"randaugment_ops": -1},
        {"randaugment_magnitude": 31},
        {"three_augment": True, "randaugment_ops": 1},
        {"color_jitter": -0.1},
        {"erase": 1.1},
        {"repeats": 0},
        {"mean": (0.5,)},
        {"std": (0.5, 0.5, 0.0)},
        {"broken": "ignore"},
        {"mixup": -0.1},
        {"cutmix": -0.1},
        {"train_split": ""},
        {"val_split": ""},
        {"test_split": ""},
        {"metric": "f1"},
        {"total_batch_size": -1},
    ],
    ids=str,
)
def test_bad_arguments_are_named_before_files_are_listed(
    root: Path, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mhc_vision.data.image_folder.list_images", None)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(root, **wrong)


def test_broken_training_images_are_named_counted_and_replaced(root: Path) -> None:
    for name in ("blue/1.jpg", "red/3.jpg"):
        path = root / "train" / name
        path.write_bytes(path.read_bytes()[:60])
    data = make(root, broken="skip")
    with pytest.warns(UserWarning, match=r"cannot decode .*; left out, [12] so far in this process") as caught:
        batches = [*data.train_dataloader(), *data.train_dataloader()]
    assert sum(len(labels) for _, labels in batches) == 24
    messages = [str(warning.message) for warning in caught if "left out" in str(warning.message)]
    assert len(messages) == 2
    assert any("blue/1.jpg" in message for message in messages)
    assert any("2 so far in this process" in message for message in messages)


def test_broken_images_are_an_error_in_evaluation_and_where_there_are_too_many(root: Path) -> None:
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    data = make(root, broken="skip")
    with pytest.raises(ValueError, match="cannot decode"):
        list(data.val_dataloader())
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="got 50 broken samples in a row"):
        list(data.train_dataloader())
