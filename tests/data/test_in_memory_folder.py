from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.io import write_jpeg

from mhc_vision.data import ImageFolderDataModule, InMemoryFolderDataModule

COUNTS = {"bird": 7, "cat": 2, "dog": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of different shapes: 14 images to train on, 6 to test on."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for name, count in COUNTS.items():
            (root / split / name).mkdir(parents=True)
            for index in range(count if split == "train" else 2):
                pixels = torch.randint(256, (3, 20 + 4 * index, 24), generator=generator, dtype=torch.uint8)
                write_jpeg(pixels, str(root / split / name / f"{index}.jpg"))
    return root


def make(root: Path, **options: Any) -> InMemoryFolderDataModule:
    return InMemoryFolderDataModule(
        **{"root": str(root), "batch_size": 4, "img_size": 16, "val_split": "test", **options}
    )


def test_describes_itself_before_anything_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhc_vision.data.in_memory_folder.decode_all", None)
    data = make(root)
    # what a resumed run compares with its checkpoint before the trainer checks the memory
    assert data.state_dict()["num_train"] == data.num_train == 14
    assert (data.num_classes, data.class_names) == (3, ["bird", "cat", "dog"])
    assert (data.in_chans, data.img_size, data.batch_size) == (3, 16, 4)


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_evaluation_is_that_of_the_image_folder(root: Path, crop_pct: float) -> None:
    options = {"img_size": 16, "batch_size": 4, "crop_pct": crop_pct, "train_split": "train", "val_split": "test"}
    in_memory, from_files = make(root, **options), ImageFolderDataModule(str(root), num_workers=0, **options)
    pairs = list(zip(in_memory.val_dataloader(), from_files.val_dataloader(), strict=True))
    assert len(pairs) == 2
    for (images, labels), (expected_images, expected_labels) in pairs:
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


def test_training_images_are_resized_and_cropped_in_the_middle_too(root: Path) -> None:
    data = make(root, val_split="train")
    images, labels = data.train_set.tensors
    assert (images.shape, images.dtype) == ((14, 3, 16, 16), torch.uint8)
    assert labels.bincount().tolist() == list(COUNTS.values())
    assert torch.equal(images, data.eval_set.tensors[0])


def test_a_share_of_the_training_images_is_held_out_as_from_class_folders(root: Path) -> None:
    options: dict[str, Any] = {"val_split": None, "val_share": 0.4, "test_split": "test", "img_size": 16}
    data = make(root, **options)
    from_files = ImageFolderDataModule(str(root), num_workers=0, batch_size=4, crop_pct=1.0, **options)
    assert (len(data.train_set), len(data.eval_set), len(data.test_set)) == (8, 6, 6)
    images = torch.cat([images for images, _ in data.val_dataloader()])
    assert torch.equal(images, torch.cat([images for images, _ in from_files.val_dataloader()]))
    assert not any(torch.equal(one, other) for one in data.train_set.tensors[0] for other in images)
    fewer = make(root, max_train_images=3, max_val_images=3, **options)
    assert (len(fewer.train_set), len(fewer.eval_set)) == (3, 3)


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 1, 1]), (6, [2, 2, 2]), (9, [4, 2, 3]), (99, [7, 2, 5])])
def test_a_part_of_the_images_is_balanced_and_does_not_depend_on_the_seed(
    root: Path, count: int, expected: list[int]
) -> None:
    parts = [make(root, max_train_images=count, seed=seed).train_set.tensors for seed in (0, 1)]
    assert parts[0][1].bincount().tolist() == expected
    assert torch.equal(parts[0][0], parts[1][0])
    whole = make(root).train_set.tensors[0]
    # the first of each class
    assert torch.equal(parts[0][0][0], whole[0])
    assert torch.equal(parts[0][0][expected[0]], whole[7])


def test_a_part_of_the_validation_images(root: Path) -> None:
    data = make(root, max_val_images=3)
    assert (len(data.eval_set), len(data.train_set)) == (3, 14)
    assert data.eval_set.tensors[1].tolist() == [0, 1, 2]


def test_a_test_split_and_classes_of_their_own(root: Path) -> None:
    data = make(root, val_split="train", test_split="test", classes=["dog", "bird"], metric="mean_per_class")
    assert (data.class_names, data.metric) == (["dog", "bird"], "mean_per_class")
    sets = (data.train_set, data.eval_set, data.test_set)
    assert [images.tensors[1].bincount().tolist() for images in sets] == [[5, 7], [5, 7], [2, 2]]
    whole = make(root)
    assert whole.test_set is whole.eval_set
    # the folders' order is that of the names
    assert torch.equal(data.test_set.tensors[0], whole.eval_set.tensors[0][[0, 1, 4, 5]])
    assert [len(labels) for _, labels in data.test_dataloader()] == [4]


def test_all_broken_images_are_counted_and_the_first_are_named(root: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        for index in range(8):
            whole = (root / "train" / "cat" / "0.jpg").read_bytes()
            broken = split == "train" and index != 3
            (tmp_path / split / "cat" / f"{index}.jpg").write_bytes(whole[:50] if broken else whole)
    data = make(tmp_path)
    assert len(data.eval_set) == 8
    with pytest.raises(ValueError, match=r"7 of 8 images are broken(.|\n)*and 2 more") as refused:
        data.train_dataloader()
    message = str(refused.value)
    assert all(f"cannot decode {tmp_path}/train/cat/{index}.jpg" in message for index in (0, 1, 2, 4, 5))


def test_images_that_do_not_fit_are_refused_before_they_are_decoded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mhc_vision.data.machine.available_memory", lambda: 2**29)
    with pytest.raises(ValueError, match=r"20 images of 3 x 4096 x 4096: got 0\.5 GiB of memory, expected 0\.9 GiB"):
        make(root, img_size=4096)
    # what is left out takes no memory
    make(root, img_size=4096, max_train_images=3, max_val_images=3)


def test_all_processes_of_the_machine_need_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhc_vision.data.machine.available_memory", lambda: 20_000)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    data = make(root)
    data.prepare_data()
    data.trainer = SimpleNamespace(num_devices=2)
    with pytest.raises(ValueError, match="20 images of 3 x 16 x 16 in each of 2 processes: got"):
        data.prepare_data()
    # images that are decoded have their memory: a test after training needs none
    assert (len(data.train_set), len(data.eval_set)) == (14, 6)
    data.prepare_data()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in each of 2 processes"):
        make(root)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_split": "training"},
        {"val_split": "val"},
        {"val_split": ""},
        {"val_share": 1.0},
        {"test_split": ""},
        {"classes": []},
        {"metric": "f1"},
        {"max_train_images": 2},
        {"max_val_images": 0},
        {"crop_padding": -1},
        {"hflip": 1.5},
        {"erase": -0.1},
        {"mean": (0.5,)},
        {"img_size": 0},
        {"crop_pct": 0.0},
        {"interpolation": "nearest"},
        {"repeats": 0},
        {"total_batch_size": 0},
    ],
    ids=str,
)
def test_bad_arguments_are_named(root: Path, wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    # a folder that is not there is named in the layout that was expected
    expected = f"has no folder {value}" if value in ("training", "val") else name
    with pytest.raises(ValueError, match=expected):
        make(root, **wrong)
