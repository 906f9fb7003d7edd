import math

import pytest

from mhc_vision.comparison.report.statistics import (
    first_step_reaching,
    mean_curve,
    paired_difference,
    spread,
    student_cdf,
    student_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 100])
def test_student_t_is_scipys(degrees):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 0.3, 1.0, 2.5, 12.0):
        # both are closed forms or well-conditioned series in fp64
        assert student_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-13)
    for probability in (0.5, 0.9, 0.975, 0.9995):
        assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


def test_student_quantiles_are_those_of_printed_tables():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 10: 2.228, 30: 2.042}
    assert {degrees: round(student_quantile(0.975, degrees), 3) for degrees in table} == table


@pytest.mark.parametrize(("probability", "degrees"), [(1.0, 2), (0.4, 2), (0.975, 0)])
def test_quantiles_that_do_not_exist_are_refused(probability, degrees):
    with pytest.raises(ValueError, match="got"):
        student_quantile(probability, degrees)


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
