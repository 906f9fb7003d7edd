"""The rule for numbers that are none."""

import pytest
import torch

from mhc_vision.finite import check_finite_rows, check_finite_weights, finite_rows, not_finite, right_rows

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("column", [0, 2, 5])
@pytest.mark.parametrize("k", [1, 5])
def test_a_row_that_is_not_finite_is_wrong_whatever_its_label(bad, column, k):
    logits = torch.eye(6)
    logits[:, column] = bad
    for label in range(6):
        assert not right_rows(logits, torch.full((6,), label), k).any()


def test_finite_rows_are_right_by_their_largest_logits():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [NAN, 2.0, 3.0]])
    labels = torch.tensor([0, 1, 2])
    assert right_rows(logits, labels).tolist() == [True, False, False]
    assert right_rows(logits, labels, k=2).tolist() == [True, True, False]
    assert finite_rows(logits).tolist() == [True, True, False]


def test_the_error_says_how_many_rows():
    check_finite_rows("features", torch.zeros(3, 2), "images")
    with pytest.raises(ValueError, match=r"features: got NaN or infinity for 2 of 3 images"):
        check_finite_rows("features", torch.tensor([[0.0, NAN], [0.0, 0.0], [INF, 0.0]]), "images")


def test_weights_and_buffers_that_are_not_finite_are_named():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    check_finite_weights("model", "it", module)
    with torch.no_grad():
        module[0].weight[0, 1] = NAN
        module[1].running_var[0] = INF
    assert not_finite(module) == ["0.weight", "1.running_var"]
    with pytest.raises(ValueError, match=r"model: it has NaN or infinity in 2 weights \(0.weight, 1.running_var\)"):
        check_finite_weights("model", "it", module)
    # of a model that is described, not made, nothing is known
    assert not_finite(module.to("meta")) == []
