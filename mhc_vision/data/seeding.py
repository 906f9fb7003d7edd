"""Random numbers that depend on where a run stands, and on nothing that happened before.

A generator whose state goes on from batch to batch would have to be saved in every process and every data worker for a
resumed run to go on like the uninterrupted one. A seed made of the place (epoch, sample, batch, process) needs nothing.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset

Place = tuple[int | str, ...]
"""Where a run stands: what a seed is derived from."""


def derive_seed(*place: int | str) -> int:
    """A seed of 63 bits for each place; neighbouring places have unrelated ones."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generator of the CPU starts from `seed` inside, and is what it was before outside."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class SeededDataset(Dataset):
    """A map-style dataset whose transforms draw from a seed of their sample's own; leaves the caller's generator alone.

    Args:
        dataset: What to wrap; torch's generator is the one its transforms draw from, as torchvision's do.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, drawn: tuple[int, Place]) -> Any:
        """The sample of an index, drawn with the seed of a place."""
        index, place = drawn
        with seeded(derive_seed(*place)):
            return self.dataset[index]
