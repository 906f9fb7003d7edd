import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from mhc_vision.data import DigitsDataModule
from mhc_vision.training.sample_images import images_of_data, sample_indices


@pytest.mark.parametrize(("total", "count"), [(10, 10), (11, 10), (10, 9), (1000, 64), (7, 1), (3, 50), (360, 63)])
def test_indices_are_distinct_and_as_many_as_asked_for(total, count):
    indices = sample_indices(total, count)
    assert len(set(indices)) == len(indices) == min(total, count)
    assert indices == sorted(indices)
    assert indices[-1] < total


def test_a_set_sorted_by_class_gives_several_images_of_a_class():
    labels = torch.arange(1000) // 10
    counts = torch.bincount(labels[sample_indices(1000, 64)])
    assert (counts[counts > 0] >= 2).all()


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
    with pytest.raises(ValueError, match="LightningDataModule has no validation images"):
        images_of_data(LightningDataModule(), 5, batch_size=3)
