"""Batches from webdataset shards, whose order is a function of (seed, epoch) and the division of the work."""

import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from mhc_vision.data.order import Start, derive_seed, seeded
from mhc_vision.data.webdataset_shards import RawSample, Shards

Transform = Callable[[Tensor], Tensor]
Batch = list[Tensor]


class TrainStream(IterableDataset[Batch]):
    """Shuffled whole batches; every worker of every process has a stream of its own, all equally long.

    In each epoch the shards are put in a random order, the samples in that order are cut into as many parts of
    whole batches as there are streams, and each stream shuffles its part within a buffer. What is left over at the end,
    less than an optimiser step, is other samples in each epoch. Shards need not divide over streams: two streams
    read the one at their border, each its part.

    Batches come from the streams in turn. A run that goes on after some batches starts with the stream whose turn it
    is, and each stream leaves out what it has given, read but not decoded. So the batches that follow are those of the
    uninterrupted run, if processes, workers and batch size are the same.

    Args:
        shards: What to read.
        transform: From uint8 (3, H, W) of any size to the model's size; draws from torch's generator.
        num_classes: Labels are below it.
        batch_size: Samples per batch.
        seed: Seed of the order and of the transforms.
        rank: Index of this process.
        world_size: Number of processes.
        num_workers: Worker processes of the loader.
        shuffle_buffer: Encoded samples that each stream keeps, to give one of them at random.
        accumulated: Batches of an optimiser step: an epoch has a multiple of them.

    Raises:
        ValueError: If the samples do not fill a batch in every stream.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        num_classes: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        num_workers: int,
        shuffle_buffer: int,
        accumulated: int = 1,
    ) -> None:
        self.streams = max(1, num_workers)
        streams = self.streams * world_size
        # equally many of each stream, and whole steps of all together
        multiple = accumulated // math.gcd(accumulated, self.streams)
        self.batches_per_stream = len(shards) // (streams * batch_size * multiple) * multiple
        if self.batches_per_stream == 0:
            times = f" x {multiple} batches of each, for {accumulated} accumulated ones" if multiple > 1 else ""
            raise ValueError(
                f"data: got {len(shards)} training samples, expected at least {streams * batch_size * multiple}: "
                f"batch_size={batch_size} in each of {streams} streams ({world_size} processes x {self.streams} "
                f"workers{times})"
            )
        self.shards, self.transform, self.num_classes = shards, transform, num_classes
        self.batch_size, self.seed, self.rank, self.shuffle_buffer = batch_size, seed, rank, shuffle_buffer
        # shared: workers that stay for several epochs see where the main process moves it
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def num_batches(self) -> int:
        """Batches of a whole epoch in this process."""
        return self.batches_per_stream * self.streams

    def start_at(self, position: Start) -> None:
        """Begin the next iteration there."""
        self._position.copy_(torch.tensor(position))

    def __iter__(self) -> Iterator[Batch]:
        epoch, samples_done = self._position.tolist()
        batches_done = samples_done // self.batch_size
        stream = (_worker() + batches_done) % self.streams
        stream_done = batches_done // self.streams + (stream < batches_done % self.streams)
        index = self.rank * self.streams + stream
        samples = self._shuffled(epoch, index)
        first = stream_done * self.batch_size
        rest = enumerate(itertools.islice(samples, first, None), first)
        for _ in range(stream_done, self.batches_per_stream):
            yield default_collate([self._draw(sample, epoch, index, place) for place, sample in self._take(rest)])

    def _take(self, samples: Iterator[tuple[int, RawSample]]) -> Iterator[tuple[int, RawSample]]:
        return itertools.islice(samples, self.batch_size)

    def _shuffled(self, epoch: int, index: int) -> Iterator[RawSample]:
        import webdataset

        generator = torch.Generator().manual_seed(derive_seed("shards", self.seed, epoch))
        order = torch.randperm(len(self.shards.urls), generator=generator).tolist()
        length = self.batches_per_stream * self.batch_size
        samples = self.shards.read(order, index * length, (index + 1) * length)
        draws = random.Random(derive_seed("buffer", self.seed, epoch, index))
        return iter(webdataset.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=draws)(samples))

    def _draw(self, sample: RawSample, epoch: int, index: int, place: int) -> tuple[Tensor, int]:
        with seeded(derive_seed("sample", self.seed, epoch, index, place)):
            return self.shards.decode(sample, self.transform, self.num_classes)


class EvaluationStream(IterableDataset[Batch]):
    """Every sample exactly once over all processes and workers, in the order of the shards.

    Processes may differ by a few batches. That is fine as long as they meet at the end of the epoch only.

    Args:
        shards: What to read.
        transform: From uint8 (3, H, W) of any size to the model's size.
        num_classes: Labels are below it.
        batch_size: Samples per batch; the last one of each worker may have fewer.
        rank: Index of this process.
        world_size: Number of processes.
        num_workers: Worker processes of the loader.

    Raises:
        ValueError: If there are fewer samples than processes: one that has none would not meet the others.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        num_classes: int,
        batch_size: int,
        rank: int,
        world_size: int,
        num_workers: int,
    ) -> None:
        if len(shards) < world_size:
            raise ValueError(
                f"data: got {len(shards)} samples to evaluate, expected one for each of {world_size} processes"
            )
        self.shards, self.transform, self.num_classes, self.batch_size = shards, transform, num_classes, batch_size
        streams = max(1, num_workers)
        cuts = [len(shards) * part // (streams * world_size) for part in range(streams * world_size + 1)]
        mine = cuts[rank * streams : (rank + 1) * streams + 1]
        self.parts = list(itertools.pairwise(mine))

    @property
    def num_batches(self) -> int:
        """Batches in this process."""
        return sum(-(-(stop - start) // self.batch_size) for start, stop in self.parts)

    def __iter__(self) -> Iterator[Batch]:
        start, stop = self.parts[_worker()]
        samples = self.shards.read(range(len(self.shards.urls)), start, stop)
        while batch := list(itertools.islice(samples, self.batch_size)):
            yield default_collate([self.shards.decode(one, self.transform, self.num_classes) for one in batch])


class StreamLoader(DataLoader):
    """Loads a stream of batches and knows how many there are; asks where training stands at the first batch.

    Args:
        stream: What to load.
        position: Where training stands, for a `TrainStream`.
        options: Of the DataLoader.
    """

    def __init__(
        self,
        stream: TrainStream | EvaluationStream,
        position: Callable[[], Start] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(stream, batch_size=None, **options)
        self.position = position
        # Lightning's advice for streams that count wrong with several workers; these do not
        warnings.filterwarnings("ignore", "Your `IterableDataset` has `__len__` defined")

    def __len__(self) -> int:
        return self.dataset.num_batches  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.position is not None:
            self.dataset.start_at(self.position())  # type: ignore[attr-defined]
        yield from super().__iter__()


def _worker() -> int:
    """Index of this worker of the loader, 0 in the main process."""
    info = get_worker_info()
    return 0 if info is None else info.id
