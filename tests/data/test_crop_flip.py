import pytest
import torch

from mhc_vision.data.batch_augment import BatchAugment, padded_crop, random_crop, random_hflip

BATCH, HEIGHT, WIDTH = 5, 6, 8
FILL = torch.tensor([7, 100, 200], dtype=torch.uint8)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (BATCH, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_every_crop_is_the_slice_of_its_padded_image(images: torch.Tensor, padding: int) -> None:
    for top in range(2 * padding + 1):
        lefts = torch.arange(BATCH) % (2 * padding + 1)
        cropped = padded_crop(images, torch.full((BATCH,), top), lefts, padding, FILL)
        assert cropped.dtype == torch.uint8
        for image, left, result in zip(images, lefts.tolist(), cropped, strict=True):
            padded = FILL.view(3, 1, 1).repeat(1, HEIGHT + 2 * padding, WIDTH + 2 * padding)
            padded[:, padding : padding + HEIGHT, padding : padding + WIDTH] = image
            assert torch.equal(result, padded[:, top : top + HEIGHT, left : left + WIDTH])


def test_random_crops_reach_every_place_and_differ_between_images() -> None:
    torch.manual_seed(0)
    # the pixel in the middle tells where each crop was taken
    dot = torch.zeros(400, 1, 5, 5, dtype=torch.uint8)
    dot[:, :, 2, 2] = 1
    cropped = random_crop(dot, 1, torch.zeros(1, dtype=torch.uint8))
    places = cropped[:, 0].flatten(1).float().argmax(1)
    assert sorted(set(places.tolist())) == [row * 5 + column for row in (1, 2, 3) for column in (1, 2, 3)]
    # 400 draws of 9 places: 44 each, standard deviation 6.3
    assert places.bincount().max() < 80


def test_flips_mirror_images_as_often_as_asked(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    many = images[:1].expand(1000, -1, -1, -1)
    flipped = random_hflip(many, 0.3)
    is_flipped = (flipped == images[0].flip(-1)).all((1, 2, 3))
    assert torch.equal(~is_flipped, (flipped == images[0]).all((1, 2, 3)))
    # standard deviation 0.0145
    assert is_flipped.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(random_hflip(images, 1.0), images.flip(-1))


def test_padding_becomes_zero_and_evaluation_leaves_images_whole() -> None:
    torch.manual_seed(0)
    augment = BatchAugment([0.2, 0.4, 0.6], [0.25] * 3, num_classes=2, crop_padding=4, hflip=0.5)
    white = torch.full((64, 3, 8, 8), 255, dtype=torch.uint8)
    labels = torch.zeros(64, dtype=torch.int64)
    images, _ = augment(white, labels)
    inside = images[:, 0] > 1
    assert not inside.all((1, 2)).all()
    # these means are whole bytes, so nothing is left of them but rounding of fp32
    assert images.masked_select(~inside.unsqueeze(1)).abs().max() < 1e-6
    assert (augment.eval()(white, labels)[0] > 1).all()


def test_the_same_seed_gives_the_same_batch(images: torch.Tensor) -> None:
    augment = BatchAugment([0.5] * 3, [0.5] * 3, num_classes=2, crop_padding=2, hflip=0.5)
    batches = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        batches.append(augment(images, torch.zeros(BATCH, dtype=torch.int64))[0])
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
