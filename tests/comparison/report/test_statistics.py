import math
import random

import pytest
import torch
from scipy import stats

from mhc_vision.comparison.report.statistics import (
    detectable_difference,
    first_step_reaching,
    has_spread,
    holm_decisions,
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


def _sample(mean):
    """Four differences of this mean whose standard deviation is 1."""
    return [mean + math.sqrt(0.75) * sign for sign in (-1, -1, 1, 1)]


def test_holm_by_hand():
    # t = 2 * mean with three degrees of freedom: the two-sided p are 0.040, 0.0015, 0.64 and 0.010
    means = [1.75, 5.66, 0.26, 2.92]
    decisions = holm_decisions([_sample(mean) for mean in means])
    p_values = [2 * stats.t.sf(2 * mean, 3) for mean in means]
    assert [decision.p_value for decision in decisions] == pytest.approx(p_values)
    smallest, second, third, largest = sorted(p_values)
    by_hand = {smallest: 4 * smallest, second: 3 * second, third: 2 * third, largest: largest}
    # the third rejects by itself only
    assert 3 * second < 0.05 < 2 * third < largest
    assert third < 0.05
    assert [decision.adjusted for decision in decisions] == pytest.approx([by_hand[p] for p in p_values])
    assert [decision.is_different for decision in decisions] == [False, True, False, True]
    # the second step rejects at 5 % / 3, the third does not at 5 % / 2, the fourth is tested at that level, too
    levels = [1 - 0.05 / 2, 1 - 0.05 / 4, 1 - 0.05 / 2, 1 - 0.05 / 3]
    assert [decision.level for decision in decisions] == pytest.approx(levels)


def test_one_difference_is_the_paired_t_test_with_its_interval():
    values, baseline = [0.93, 0.95, 0.94, 0.97], [0.92, 0.93, 0.94, 0.94]
    (decision,) = holm_decisions([[a - b for a, b in zip(values, baseline, strict=True)]])
    theirs = stats.ttest_rel(values, baseline)
    assert (decision.p_value, decision.adjusted) == pytest.approx((theirs.pvalue, theirs.pvalue))
    assert decision.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_adjusted_p_values_never_fall_and_never_exceed_one():
    samples = [_sample(mean) for mean in (1.0, 1.01, 1.02, 0.0)]
    decisions = holm_decisions(samples)
    by_p = sorted(decisions, key=lambda decision: decision.p_value)
    # 4 * p of the smallest is more than 3 * p of the second
    assert by_p[0].adjusted == by_p[1].adjusted == by_p[2].adjusted > 3 * by_p[1].p_value
    assert by_p[3].adjusted == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(20))
def test_an_interval_holds_zero_exactly_where_holm_does_not_reject(seed):
    generator = random.Random(seed)
    samples = [[generator.gauss(shift, 1.0) for _ in range(5)] for shift in (0.0, 0.0, 1.0, 2.0, -2.0, 4.0)]
    for decision in holm_decisions(samples):
        low, high = decision.interval
        assert (low <= 0 <= high) == (not decision.is_different)


def test_what_has_no_spread_cannot_be_tested():
    assert not has_spread([1.0])
    # equal but for rounding
    assert not has_spread([0.1 + 0.2, 0.3])
    assert has_spread([0.1, 0.2])
    with pytest.raises(ValueError, match=r"differences: got \[1.0\], expected at least two that differ"):
        holm_decisions([[1.0, 2.0], [1.0]])


# from the tables of Cohen (1988) by G*Power: a matched-pairs t test, two-sided, alpha 5 %, needs so many pairs for this
# effect (mean over standard deviation) and has then this power
@pytest.mark.parametrize(("effect", "pairs", "power"), [(0.2, 199, 0.8017), (0.5, 34, 0.8078), (0.8, 15, 0.8213)])
def test_the_detectable_difference_is_that_of_published_tables(effect, pairs, power):
    # four digits are published
    assert detectable_difference(1.0, pairs, 0.95, power) == pytest.approx(effect, rel=2e-4)
    assert detectable_difference(3.0, pairs, 0.95, power) == pytest.approx(3 * effect, rel=2e-4)
    assert detectable_difference(1.0, pairs, 0.95) < effect < detectable_difference(1.0, pairs - 1, 0.95)


@pytest.mark.parametrize(("count", "level"), [(2, 0.95), (3, 0.95), (5, 0.9875), (10, 0.99)])
def test_a_study_finds_the_detectable_difference_four_times_in_five(count, level):
    mean = detectable_difference(2.0, count, level)
    samples = mean + 2.0 * torch.randn(40_000, count, dtype=torch.float64)
    statistics = samples.mean(1) / (samples.std(1) / math.sqrt(count))
    found = (statistics.abs() > stats.t.ppf(0.5 + level / 2, count - 1)).double().mean()
    # five standard deviations of a share of 40,000
    assert float(found) == pytest.approx(0.8, abs=0.01)


def test_more_arms_and_fewer_seeds_can_show_less():
    values = [0.5, -0.4, 0.1, 0.3, -0.2]
    alone, beside = holm_decisions([values])[0], holm_decisions([values, values, values])[0]
    assert alone.detectable < beside.detectable
    assert holm_decisions([[0.5, -0.4, 0.1]])[0].detectable > alone.detectable
