import torch
from torch.utils.data import DataLoader, Dataset

from mhc_vision.data.order import SeededDataset, derive_seed


class Noise(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.rand(3)


PLACES = [(index, ("sample", 0, 1, index)) for index in range(8)]


def test_places_have_unrelated_seeds():
    seeds = {derive_seed(kind, a, b) for kind in ("sample", "step") for a in range(30) for b in range(30)}
    assert len(seeds) == 1800
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("sample", 1, 23) != derive_seed("sample", 12, 3)
    # the same in every process and in every Python
    assert derive_seed("sample", 0, 1, 2) == derive_seed("sample", 0, 1, 2)


def test_a_sample_does_not_depend_on_workers_or_on_what_was_drawn_before():
    drawn = []
    for num_workers in (0, 2):
        torch.rand(num_workers + 1)
        loader = DataLoader(SeededDataset(Noise()), batch_size=2, sampler=PLACES, num_workers=num_workers)
        drawn.append(torch.cat([noise for _, noise in loader]))
    assert torch.equal(*drawn)
    assert len(drawn[0].unique(dim=0)) == 8


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert SeededDataset(Noise())[PLACES[0]][0] == 0
    assert torch.equal(torch.rand(2), expected)
