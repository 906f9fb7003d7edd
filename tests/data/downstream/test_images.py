import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mhc_vision.data.downstream.images import DecodedImages


class Source(Dataset):
    """Images of height 1 to 100, which count how often they are read; some are broken."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken = broken
        self.reads = 0

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        if index in self.broken:
            raise ValueError(f"cannot decode image {index}")
        return torch.full((3, index + 1, 10), index, dtype=torch.uint8), index % 7


def test_images_keep_their_size_and_are_read_once() -> None:
    source = Source()
    images = DecodedImages(source)
    assert not images.is_decoded
    image, label = images[41]
    assert (image.shape, image[0, 0, 0].item(), label) == ((3, 42, 10), 41, 6)
    assert images.is_decoded
    images.decode()
    assert images[99][0].shape == (3, 100, 10)
    assert (len(images), source.reads) == (100, 100)


def test_memory_is_estimated_from_a_few_images() -> None:
    source = Source()
    estimate = DecodedImages(source).estimated_bytes()
    exact = sum(source[index][0].nbytes for index in range(100))
    # evenly spread over sizes that grow evenly
    assert estimate == pytest.approx(exact, rel=0.05)
    assert source.reads < 140


def test_broken_images_are_counted_and_named() -> None:
    images = DecodedImages(Source(broken=(3, 50)))
    with pytest.raises(ValueError, match=r"2 of 100 images are broken:\ncannot decode image 3\ncannot decode image 50"):
        images.decode()
    assert not images.is_decoded
