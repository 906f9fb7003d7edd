"""Which samples a process sees, in which order, and what each of them draws its random numbers from."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch.utils.data import Dataset, Sampler

Place = tuple[int | str, ...]
"""Where a run stands: what a seed is derived from."""

Start = tuple[int, int]
"""An epoch, and how many samples of this process's share of it are already trained on."""

# runs with neighbouring seeds must not share orders an epoch apart
_SEED_STRIDE = 1_000_003


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


class Position(NamedTuple):
    """A place in a training.

    Attributes:
        epoch: Whole epochs before it.
        batch: Batches of this epoch before it, in each process.
        batches: Batches of the whole training before it.
    """

    epoch: int
    batch: int
    batches: int


def position_of_step(trainer: Trainer, step: int) -> Position:
    """Where a training stands after so many optimiser steps.

    An epoch has the same number of batches each time (`trainer.num_training_batches`, known once the training data is
    set up), and its last step ends it. Nothing else is counted: Lightning's loops count batches, too, and otherwise
    where a checkpoint was written after validation, at the end of a run within an epoch, or between the batches of a
    step.
    """
    batches_per_epoch = int(trainer.num_training_batches)
    accumulated = trainer.accumulate_grad_batches
    epoch, steps = divmod(step, math.ceil(batches_per_epoch / accumulated))
    return Position(epoch, steps * accumulated, epoch * batches_per_epoch + steps * accumulated)


class ShuffledSampler(Sampler[tuple[int, Place]]):
    """A random order for training that depends on nothing but (seed, epoch), as pairs of an index and a place.

    The place is what the seed of the sample is derived from, where one is needed (see `SeededDataset`).

    All processes draw the same permutation and take every `world_size`-th index of it. The samples at its end that do
    not fill a multiple of `multiple` in every process are left out, other ones each epoch.

    The epoch is asked for when iteration starts. It is not pushed in with a `set_epoch`, which Lightning would call
    with a count that is wrong after some kinds of resume.

    Args:
        num_samples: Length of the dataset.
        position: Where training stands, asked once an epoch.
        seed: Seed of the whole run's order, the same in every process.
        rank: Index of this process.
        world_size: Number of processes.
        repeats: Repeated augmentation (arXiv 1902.05509; DeiT uses 3): each sample comes so many times in a row, to
            different processes, each time at a place of its own. An epoch keeps its length, so it has fewer samples.
        multiple: The number of samples of a process is a multiple of it: those of an optimiser step.
    """

    def __init__(
        self,
        num_samples: int,
        position: Callable[[], Start],
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
        multiple: int = 1,
    ) -> None:
        self.num_samples = num_samples
        self.multiple = multiple
        self.repeats = repeats
        self.position = position
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Samples of a whole epoch in this process, whatever part of it `position` leaves to do."""
        return self.num_samples // (self.world_size * self.multiple) * self.multiple

    def __iter__(self) -> Iterator[tuple[int, Place]]:
        epoch, done = self.position()
        generator = torch.Generator().manual_seed(self.seed * _SEED_STRIDE + epoch)
        order = torch.randperm(self.num_samples, generator=generator)
        for place in range(self.rank + done * self.world_size, len(self) * self.world_size, self.world_size):
            turn, copy = divmod(place, self.repeats)
            index = int(order[turn])
            yield index, ("sample", self.seed, epoch, index, copy)


class EvaluationSampler(Sampler[int]):
    """Every sample exactly once over all processes: no padding, no duplicates.

    Processes may differ by one sample, hence by one batch. That is fine as long as they meet at the end of the epoch
    only, as torchmetrics does; it would hang a collective in the evaluation step.

    Args:
        num_samples: Length of the dataset.
        rank: Index of this process.
        world_size: Number of processes.
    """

    def __init__(self, num_samples: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_samples, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        yield from self.indices
