import pytest
import torch

from mhc_vision.data import FakeDataModule


def test_noise_of_the_asked_shape_and_the_same_for_each_seed() -> None:
    data, again, other = (FakeDataModule(img_size=16, num_classes=3, seed=seed) for seed in (0, 0, 1))
    images, labels = next(iter(data.train_dataloader()))
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 16, 16))
    assert labels.max() < data.num_classes == 3
    assert torch.equal(data.train_set.tensors[0], again.train_set.tensors[0])
    assert not torch.equal(data.train_set.tensors[0], other.train_set.tensors[0])
    assert len(data.eval_set) == 64


@pytest.mark.parametrize("wrong", [{"img_size": 0}, {"num_classes": 0}, {"num_images": 0}, {"repeats": 0}], ids=str)
def test_bad_arguments_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got 0, expected a whole number from 1"):
        FakeDataModule(**wrong)
