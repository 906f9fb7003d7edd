"""Effective rank, shares and memory of streams, by hand."""

import math

import pytest
import torch

from mhc_vision.layers import ManifoldHyperConnection, StaticHyperConnection, initial_coefficients
from mhc_vision.models.instruments.streams import dominant_share, effective_rank, stream_memory, stream_shares

EXACT = {"rel": 1e-12}


def test_effective_rank_of_known_matrices():
    copies = torch.randn(6, 1, 32).expand(6, 4, 32)
    # the singular values beside the first are fp64 rounding of their squares
    torch.testing.assert_close(effective_rank(copies), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-5)
    assert effective_rank(torch.eye(4, 9)) == pytest.approx(4)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )
    assert effective_rank(torch.zeros(4, 9)) == 1


def test_shares_of_known_streams():
    # squared norms 9 and 1, then 0 and 4
    streams = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [2.0, 0.0]]])
    assert stream_shares(streams).tolist() == [[pytest.approx(0.9), pytest.approx(0.1)], [0, 1]]
    # each token counts alike, whatever its norm: (0.1 + 1) / 2
    assert dominant_share(streams) == pytest.approx(0.55)
    assert stream_shares(torch.zeros(3, 4, 2)).tolist() == [[0.25] * 4] * 3


@pytest.mark.parametrize("n", [1, 2, 4])
def test_copies_have_equal_shares_and_one_stream_alone_has_all(n):
    copies = torch.randn(5, 7, 1, 8).expand(5, 7, n, 8)
    assert dominant_share(copies) == pytest.approx(1 / n, **EXACT)
    alone = torch.zeros(5, 7, n, 8)
    alone[..., n - 1, :] = torch.randn(5, 7, 8)
    assert dominant_share(alone) == 1


@pytest.mark.parametrize("res_init", [-3.0, -6.0])
def test_maps_at_their_start_forget_at_a_known_rate(res_init):
    connection = ManifoldHyperConnection(8, num_streams=4, res_init=res_init)
    depth, rate = 24, 1 - 4 * math.exp(res_init) / (1 + 3 * math.exp(res_init))
    assert rate == pytest.approx({-3.0: 0.827, -6.0: 0.990}[res_init], abs=5e-4)
    memory = stream_memory([initial_coefficients(connection).res] * depth)
    # maps are fp32, and so is the rounding of their product over 24 branches
    assert memory.tolist() == [pytest.approx(rate ** (depth - branch), rel=1e-4) for branch in range(depth)]


def test_what_forgets_nothing_has_a_memory_of_one():
    permutation = torch.eye(4)[[2, 0, 3, 1]]
    static = initial_coefficients(StaticHyperConnection(8, num_streams=4)).res
    assert stream_memory([torch.eye(4), permutation, static]).tolist() == [pytest.approx(1, **EXACT)] * 3


def test_the_mean_of_the_streams_does_not_count():
    # all streams become their mean: the mean survives, no difference does
    mixing = torch.full((4, 4), 0.25)
    assert stream_memory([torch.eye(4), mixing, torch.eye(4)]).tolist() == [
        *[pytest.approx(0, abs=1e-15)] * 2,
        pytest.approx(1, **EXACT),
    ]
    # free maps may amplify it
    assert stream_memory([3 * torch.eye(2)]).tolist() == [pytest.approx(3, **EXACT)]
    # and what goes from a difference to the mean, or back, is none of it: [1, -1] becomes [1, 1]
    assert stream_memory([torch.tensor([[1.0, 0.0], [0.0, -1.0]])]).tolist() == [pytest.approx(0, abs=1e-15)]


def test_maps_of_tokens_count_by_their_mean():
    keeps, swaps = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    # the mean of three tokens that keep and one that swaps: 0.75 - 0.25
    maps = torch.stack([keeps, keeps, keeps, swaps]).reshape(2, 2, 2, 2)
    assert stream_memory([maps, keeps]).tolist() == [pytest.approx(0.5, **EXACT), pytest.approx(1, **EXACT)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_nan_and_no_error(value):
    streams = torch.randn(2, 4, 8)
    streams[0, 1, 2] = value
    assert effective_rank(streams).isnan().tolist() == [True, False]
    assert dominant_share(streams).isnan()
    res = torch.eye(2)
    res[0, 1] = value
    assert stream_memory([res, torch.eye(2)]).isnan().tolist() == [True, False]
