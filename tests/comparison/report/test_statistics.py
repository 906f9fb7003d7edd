import math

import pytest

from mhc_vision.comparison.report.statistics import (
    first_step_reaching,
    mean_curve,
    paired_difference,
    spread,
)


def test_paired_difference_by_hand():
    # differences 1, 2, 3: mean 2, standard deviation 1, t = 4.303 with two degrees of freedom
    difference = paired_difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert difference.mean == pytest.approx(2.0)
    assert difference.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert difference.count == 3


def test_one_seed_has_neither_deviation_nor_interval():
    assert spread([3.0]).std is None
    assert paired_difference([3.0], [1.0]).half_width is None
    assert paired_difference([3.0], [1.0]).mean == 2.0


def test_a_loss_that_is_no_number_stays_visible():
    assert math.isnan(spread([1.0, float("nan")]).mean)
    assert math.isnan(paired_difference([float("nan"), 1.0], [1.0, 1.0]).mean)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="got none"):
        spread([])
    with pytest.raises(ValueError, match="got 2 values and 1 of the baseline"):
        paired_difference([1.0, 2.0], [1.0])


def test_a_target_is_reached_at_the_first_point_as_good():
    steps, losses = [9, 19, 29], [1.0, 0.5, 0.7]
    # the value logged at step s is that after s + 1 steps
    assert first_step_reaching(steps, losses, 0.5, higher_is_better=False) == 20
    assert first_step_reaching(steps, losses, 0.4, higher_is_better=False) is None
    assert first_step_reaching(steps, losses, 0.6, higher_is_better=True) == 10
    assert first_step_reaching(steps, [float("nan")] * 3, 0.5, higher_is_better=False) is None


def test_a_mean_curve_has_the_steps_that_all_have():
    assert mean_curve([([0, 1, 2], [1.0, 2.0, 3.0]), ([1, 2, 3], [4.0, 5.0, 6.0])]) == ([1, 2], [3.0, 4.0])
