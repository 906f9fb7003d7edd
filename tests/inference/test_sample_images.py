from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset
from torchvision.io import write_png

from mhc_vision.data import DigitsDataModule
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.inference.sample_images import images_of_data, images_of_folder, random_images, sample_indices


@pytest.mark.parametrize(("total", "count"), [(10, 10), (11, 10), (10, 9), (1000, 64), (7, 1), (3, 50), (360, 63)])
def test_indices_are_distinct_and_as_many_as_asked_for(total, count):
    indices = sample_indices(total, count)
    assert len(set(indices)) == len(indices) == min(total, count)
    assert indices == sorted(indices)
    assert indices[-1] < total


def test_an_empty_set_has_no_indices():
    assert sample_indices(0, 64) == []


def test_a_set_sorted_by_class_gives_several_images_of_a_class():
    labels = torch.arange(1000) // 10
    counts = torch.bincount(labels[sample_indices(1000, 64)])
    # 16 groups of four: 16 classes, or a few more where a group lies across two
    assert 16 <= (counts > 0).sum() <= 24


def test_images_are_normalised_and_come_with_their_labels():
    data = DigitsDataModule()
    sample = images_of_data(data, 6, batch_size=4)
    batches = list(sample.batches)
    assert [len(images) for images, _ in batches] == [4, 2]
    images, labels = torch.cat([batch for batch, _ in batches]), torch.cat([their for _, their in batches])
    expected, expected_labels = data.eval_set.__getitems__(sample_indices(360, 6))
    torch.testing.assert_close(images, expected / 127.5 - 1)
    assert torch.equal(labels, expected_labels)
    assert sample.class_names == list("0123456789")


class Stream(IterableDataset):
    def __iter__(self):
        return ((torch.full((1, 2, 2), float(index)), index % 2) for index in range(100))


class StreamData(LightningDataModule):
    def val_dataloader(self):
        return DataLoader(Stream(), batch_size=8)


def test_of_a_stream_the_first_images_in_batches_of_the_wanted_size():
    sample = images_of_data(StreamData(), 5, batch_size=3)
    batches = list(sample.batches)
    assert [len(images) for images, _ in batches] == [3, 2]
    assert [image.mean().item() for images, _ in batches for image in images] == [0, 1, 2, 3, 4]
    assert sample.class_names == []


def test_data_without_validation_images_is_refused():
    with pytest.raises(ValueError, match="got LightningDataModule without validation images"):
        images_of_data(LightningDataModule(), 5, batch_size=3)


@pytest.fixture
def rgb_model() -> LoadedModel:
    return LoadedModel(torch.nn.Identity(), "a model", 2, 3, {}, 8, 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)


def write_folder(folder: Path, *classes: str) -> Path:
    for value, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(5):
            write_png(torch.full((3, 8, 8), 255 * value, dtype=torch.uint8), str(folder / name / f"{index}.png"))
    return folder


def test_class_folders_whose_names_the_model_need_not_know(rgb_model, tmp_path):
    sample = images_of_folder(write_folder(tmp_path / "val", "green", "red").parent, rgb_model, 6, batch_size=4)
    images, labels = (torch.cat(parts) for parts in zip(*sample.batches, strict=True))
    assert sample.class_names == ["green", "red"]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.mean((1, 2, 3)).tolist() == [-1, -1, -1, 1, 1, 1]


def test_a_folder_of_images_is_one_class(rgb_model, tmp_path):
    sample = images_of_folder(write_folder(tmp_path, "white") / "white", rgb_model, 50, batch_size=4)
    assert sum(len(labels) for _, labels in sample.batches) == 5
    assert sample.class_names == ["white"]


def test_folders_and_images_that_cannot_be_used(rgb_model, tmp_path):
    grey = replace(rgb_model, in_chans=1)
    with pytest.raises(ValueError, match="for images of 1 channel"):
        images_of_folder(tmp_path, grey, 4, 4)
    with pytest.raises(ValueError, match="is missing"):
        images_of_folder(tmp_path / "none", rgb_model, 4, 4)
    with pytest.raises(ValueError, match="without class folders and images"):
        images_of_folder(tmp_path, rgb_model, 4, 4)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        list(images_of_folder(tmp_path, rgb_model, 4, 4).batches)


def test_noise_is_the_same_each_time(rgb_model):
    first, second = (list(random_images(rgb_model, 5, batch_size=4).batches) for _ in range(2))
    assert [images.shape for images, _ in first] == [(4, 3, 8, 8), (1, 3, 8, 8)]
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(first, second, strict=True))
