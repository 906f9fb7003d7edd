import pytest
import torch

from mhc_vision.data.batch_augment import BatchAugment

LABELS = torch.tensor([0, 1, 2, 1])


def constant_images(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()


def test_black_and_white_become_minus_one_and_one() -> None:
    augment = BatchAugment(mean=[0.5] * 3, std=[0.5] * 3, num_classes=3)
    images, labels = augment(constant_images(0, 255), LABELS[:2])
    assert images.dtype == torch.float32
    assert images[0].unique().tolist() == [-1]
    assert images[1].unique().tolist() == [1]
    assert labels.tolist() == [0, 1]


def test_each_channel_has_its_own_mean_and_std() -> None:
    augment = BatchAugment(mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 0.25], num_classes=3)
    images, _ = augment(constant_images(255), LABELS[:1])
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("mixing", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_mixing_makes_targets_match_the_images(mixing: dict[str, float]) -> None:
    torch.manual_seed(0)
    # class 0 is black and class 1 white, so the mean of an image says how much of class 1 is in it
    augment = BatchAugment([0.0] * 3, [1.0] * 3, num_classes=2, **mixing)
    for _ in range(5):
        images, targets = augment(constant_images(0, 255), LABELS[:2])
        assert targets.shape == (2, 2)
        torch.testing.assert_close(targets.sum(1), torch.ones(2))
        torch.testing.assert_close(images.mean((1, 2, 3)), targets[:, 1])
        assert targets.min() > 0


def test_both_mixings_are_used_when_both_are_on() -> None:
    torch.manual_seed(0)
    augment = BatchAugment([0.0] * 3, [1.0] * 3, num_classes=2, mixup=1.0, cutmix=1.0)
    # Mixup leaves a constant image constant, CutMix pastes a rectangle
    pasted = [augment(constant_images(0, 255), LABELS[:2])[0][0].unique().numel() == 2 for _ in range(20)]
    assert {True, False} == set(pasted)


def test_evaluation_does_not_mix() -> None:
    augment = BatchAugment([0.5] * 3, [0.5] * 3, num_classes=3, mixup=1.0, cutmix=1.0).eval()
    images, targets = augment(constant_images(0, 255, 0, 255), LABELS)
    assert targets is LABELS
    assert images[:, 0, 0, 0].tolist() == [-1, 1, -1, 1]
    assert all(image.unique().numel() == 1 for image in images)


def test_erased_rectangles_are_noise_in_training_alone() -> None:
    augment = BatchAugment([0.5] * 3, [0.5] * 3, num_classes=3, erase=1.0)
    black = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    images, _ = augment(black, torch.zeros(8, dtype=torch.int64))
    shares = (images != -1).any(1).float().mean((1, 2))
    assert ((shares > 0.01) & (shares < 0.4)).all()
    assert shares.unique().numel() > 1
    assert (augment.eval()(black, torch.zeros(8))[0] == -1).all()


@pytest.mark.parametrize(
    "wrong", [{"mixup": -0.1}, {"cutmix": -1.0}, {"erase": -0.1}, {"std": [0.5, 0.0, 0.5]}], ids=str
)
def test_bad_arguments_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BatchAugment(**{"mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 3, **wrong})
