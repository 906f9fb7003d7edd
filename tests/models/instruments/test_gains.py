import pytest
import torch

from mhc_vision.kernels import sinkhorn_knopp
from mhc_vision.models.instruments.gains import backward_gain, column_error, composite_maps, forward_gain


def test_gains_are_the_largest_absolute_sums_averaged_over_tokens():
    maps = torch.tensor([[[1.0, -3.0], [0.5, 0.5]], [[4.0, 0.0], [0.0, -5.0]]])
    # rows: |-2|, |1| and |4|, |-5|; columns: |1.5|, |-2.5| and |4|, |-5|
    assert forward_gain(maps) == pytest.approx((2 + 5) / 2)
    assert backward_gain(maps) == pytest.approx((2.5 + 5) / 2)
    assert forward_gain(maps[0]) == pytest.approx(2)


def test_column_error_sees_columns_that_attenuate():
    assert column_error(torch.eye(3)) == 0
    halved = torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    assert column_error(halved) == pytest.approx(torch.tensor(2.0).log().item())


def test_sinkhorn_leaves_a_column_error_that_shrinks_with_iterations_and_no_row_error():
    logits = 3 * torch.randn(100, 4, 4)
    few, many = (sinkhorn_knopp(logits, num_iters) for num_iters in (3, 30))
    assert column_error(many) < 0.5 * column_error(few)
    # rows are normalised last: what is left is fp32 rounding
    assert forward_gain(few) == pytest.approx(1, abs=1e-6)


def test_composite_maps_are_what_streams_become_at_the_end():
    maps = [torch.randn(5, 3, 3) for _ in range(4)]
    streams = torch.randn(5, 3, 7)
    products = composite_maps(maps)
    assert len(products) == 4
    for start in range(4):
        expected = streams
        for res in maps[start:]:
            expected = res @ expected
        torch.testing.assert_close(products[start] @ streams, expected)


def test_composite_maps_mix_maps_of_all_tokens_with_maps_of_each():
    shared, own = torch.eye(3), torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(composite_maps([own, shared])[0], own)
