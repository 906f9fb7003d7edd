import pytest

from mhc_vision.data.order import EvaluationSampler, ShuffledSampler


def shuffled(num_samples: int, world_size: int, epoch: int = 0, done: int = 0, seed: int = 0) -> list[list[int]]:
    """The order of each process."""
    samplers = [
        ShuffledSampler(num_samples, lambda: (epoch, done), seed, rank, world_size) for rank in range(world_size)
    ]
    return [[index for index, _ in sampler] for sampler in samplers]


@pytest.mark.parametrize("num_samples", [1, 2, 7, 12, 13])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_evaluation_visits_every_sample_once_over_all_processes(num_samples: int, world_size: int) -> None:
    shares = [EvaluationSampler(num_samples, rank, world_size) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == list(range(num_samples))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("num_samples", [4, 7, 13])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_training_shares_are_disjoint_and_equally_long(num_samples: int, world_size: int) -> None:
    shares = shuffled(num_samples, world_size)
    assert {len(share) for share in shares} == {num_samples // world_size}
    visited = [index for share in shares for index in share]
    assert len(set(visited)) == len(visited)
    assert set(visited) <= set(range(num_samples))


def test_all_samples_are_visited_over_some_epochs() -> None:
    visited = {index for epoch in range(20) for share in shuffled(7, 4, epoch) for index in share}
    assert visited == set(range(7))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert shuffled(50, 2, epoch=3) == shuffled(50, 2, epoch=3)
    assert shuffled(50, 2, epoch=3) != shuffled(50, 2, epoch=4)
    assert shuffled(50, 2, epoch=1, seed=0) != shuffled(50, 2, epoch=0, seed=1)


def test_training_goes_on_within_an_epoch() -> None:
    assert shuffled(13, 2, epoch=1, done=4) == [share[4:] for share in shuffled(13, 2, epoch=1)]


def test_position_is_asked_anew_in_each_epoch() -> None:
    position = [0, 0]
    sampler = ShuffledSampler(50, lambda: (position[0], position[1]))
    first = [index for index, _ in sampler]
    position[0] = 1
    assert [index for index, _ in sampler] == shuffled(50, 1, epoch=1)[0] != first


def test_each_sample_has_a_seed_of_its_own_in_each_epoch() -> None:
    def seeds(epoch: int, seed: int = 0, done: int = 0) -> dict[int, int]:
        return dict(ShuffledSampler(50, lambda: (epoch, done), seed))

    assert len(set(seeds(0).values()) | set(seeds(1).values()) | set(seeds(0, seed=1).values())) == 150
    rest = seeds(1, done=20)
    assert len(rest) == 30
    assert rest.items() <= seeds(1).items()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_repeated_samples_come_in_a_row_with_seeds_of_their_own(world_size: int) -> None:
    samplers = [ShuffledSampler(20, lambda: (0, 0), 0, rank, world_size, repeats=3) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {20 // world_size}
    together = [pair for turn in zip(*shares, strict=True) for pair in turn]
    indices = [index for index, _ in together]
    order = [index for index, _ in ShuffledSampler(20, lambda: (0, 0))]
    assert indices == [index for index in order for _ in range(3)][: len(indices)]
    assert len({seed for _, seed in together}) == len(together)
    later = ShuffledSampler(20, lambda: (0, 4), 0, 0, world_size, repeats=3)
    assert list(later) == shares[0][4:]
