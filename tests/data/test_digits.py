import sys

import pytest
import torch

from mhc_vision.data import DigitsDataModule


@pytest.fixture(scope="module")
def data() -> DigitsDataModule:
    return DigitsDataModule(batch_size=100)


def all_labels(loader: torch.utils.data.DataLoader) -> torch.Tensor:
    return torch.cat([labels for _, labels in loader])


def test_describes_itself_at_construction(data: DigitsDataModule) -> None:
    assert (data.num_classes, data.in_chans, data.img_size, data.batch_size) == (10, 1, 8, 100)
    assert data.class_names == list("0123456789")


def test_batches_are_uint8_with_the_full_range(data: DigitsDataModule) -> None:
    images, labels = next(iter(data.train_dataloader()))
    assert (images.dtype, images.shape) == (torch.uint8, (100, 1, 8, 8))
    assert (labels.dtype, labels.shape) == (torch.int64, (100,))
    assert (images.min(), images.max()) == (0, 255)


def test_split_is_stratified_fixed_and_disjoint(data: DigitsDataModule) -> None:
    (train_images, train_labels), (test_images, test_labels) = data.train_set.tensors, data.eval_set.tensors
    assert (len(train_labels), len(test_labels)) == (1437, 360)
    assert torch.equal(test_labels.bincount() / 360 - train_labels.bincount() / 1437 < 0.005, torch.ones(10).bool())
    assert torch.equal(test_images, DigitsDataModule(seed=7).eval_set.tensors[0])
    train = {image.numpy().tobytes() for image in train_images}
    assert not any(image.numpy().tobytes() in train for image in test_images)


def test_evaluation_visits_the_whole_test_set_in_order(data: DigitsDataModule) -> None:
    labels = all_labels(data.val_dataloader())
    assert torch.equal(labels, data.eval_set.tensors[1])
    assert torch.equal(labels, all_labels(data.test_dataloader()))
    assert data.test_set is data.eval_set


def test_training_gives_whole_batches_only(data: DigitsDataModule) -> None:
    assert len(data.train_dataloader()) == 14
    assert len(all_labels(data.train_dataloader())) == 1400


def test_batches_are_normalised_on_the_device(data: DigitsDataModule) -> None:
    images, labels = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (images.min(), images.max()) == (-1, 1)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_workers": -1}], ids=str)
def test_bad_arguments_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DigitsDataModule(**wrong)


def test_a_batch_larger_than_the_training_set_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"got 1437 training samples, expected at least 1438: batch_size=1438"):
        DigitsDataModule(batch_size=1438).train_dataloader()


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"mhc-vision\[demo\]"):
        DigitsDataModule()
