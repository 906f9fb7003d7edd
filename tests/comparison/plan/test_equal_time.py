"""Arms at equal time in a matrix: what may be asked for, and which runs follow from measured step times."""

import re

import pytest

from mhc_vision.comparison.plan.equal_time import StepTime, run_length, with_equal_time
from mhc_vision.comparison.plan.matrix import parse_matrix


def _time(ratio, steps=500, validations=5, accumulated=1):
    return StepTime(ratio, 0.3 * ratio, 0.3, 20, steps, validations, accumulated)


def test_the_baseline_comes_once_more_for_each_arm_and_seed(content):
    content["equal_time"] = ["mhc"]
    content["set"] = {"trainer.max_epochs": 5, "model.eps": 1e-6}
    matrix = with_equal_time(parse_matrix(content), {"digits": {"mhc": _time(1.6)}})
    assert matrix.arms == ("plain", "mhc", "plain-time-mhc")
    # seed by seed: a comparison that is stopped has whole sets
    assert [cell.name for cell in matrix.cells] == [
        *("digits/plain/seed0", "digits/mhc/seed0", "digits/plain-time-mhc/seed0"),
        *("digits/plain/seed1", "digits/mhc/seed1", "digits/plain-time-mhc/seed1"),
    ]
    base, timed = matrix.cells[0], matrix.cells[2]
    assert timed.configs == base.configs
    assert timed.options["model.eps"] == 1e-6
    assert timed.options["trainer.max_epochs"] == -1
    assert timed.options["trainer.max_steps"] == 800
    # another ratio is another run
    other = with_equal_time(parse_matrix(content), {"digits": {"mhc": _time(1.7)}}).cells[2]
    assert other.identity() != timed.identity()


def test_a_matrix_without_arms_at_equal_time_stays_as_it_is(matrix):
    assert with_equal_time(matrix, {}) == matrix


def test_tasks_that_lack_the_arm_or_the_baseline_get_no_runs(content):
    more = {"config": ["recipe.yaml"], "set": {"model.lr": 3}}
    content["recipes"] |= {"without-arm": more, "without-base": {"config": ["recipe.yaml"], "set": {"model.lr": 4}}}
    content |= {"equal_time": ["mhc"], "exclude": ["without-arm/mhc", "without-base/plain"]}
    matrix = with_equal_time(parse_matrix(content), {"digits": {"mhc": _time(2.0)}})
    assert {cell.task for cell in matrix.cells if cell.arm == "plain-time-mhc"} == {"digits"}
    assert matrix.excluded_arms("without-base") == ("plain", "plain-time-mhc")


# steps asked for, validations of the baseline: steps taken, interval
@pytest.mark.parametrize(
    ("time", "steps", "interval"),
    [
        (_time(1.6), 800, 160),
        # 857 is prime: six times 143 is one more, five times 171 two less
        (_time(1.714), 858, 143),
        (_time(1.714, validations=1), 857, 857),
        # an arm that is faster than the baseline
        (_time(0.5), 250, 50),
        (_time(1.6, accumulated=4), 800, 640),
        # fewer steps than validations
        (_time(0.1, steps=10, validations=3), 1, 1),
    ],
)
def test_a_run_validates_at_its_very_end(time, steps, interval):
    length = run_length(time)
    assert length["trainer.max_steps"] == steps
    assert length["trainer.val_check_interval"] == interval
    assert steps * time.accumulated % interval == 0


@pytest.mark.parametrize("ratio", [1.01, 1.237, 1.5, 1.983, 2.71])
@pytest.mark.parametrize("validations", [3, 14, 100])
def test_the_steps_are_those_that_were_asked_for(ratio, validations):
    steps = run_length(_time(ratio, steps=1400, validations=validations))["trainer.max_steps"]
    # no step time is known better than to three thousandths
    assert steps == pytest.approx(ratio * 1400, rel=3e-3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"equal_time": []}, "equal_time: got [], expected a list of arms, each once, such as [mhc]"),
        ({"equal_time": "mhc"}, "equal_time: got 'mhc', expected a list of arms"),
        ({"equal_time": ["mhc", "mhc"]}, "expected a list of arms, each once"),
        ({"equal_time": ["mch"]}, "equal_time: got 'mch', expected arms beside plain: mhc"),
        ({"equal_time": ["plain"]}, "equal_time: got 'plain', expected arms beside plain: mhc"),
        ({"equal_time": {"arms": ["mhc"], "by": 1}}, "equal_time: got the key 'by', expected one of arms, seconds"),
        ({"equal_time": {"arms": ["mhc"], "seconds": -1}}, "equal_time.seconds: got -1"),
        ({"equal_time": ["mhc"], "gpus": 2}, "equal_time: got gpus: 2, expected at most 1"),
    ],
)
def test_bad_input_is_refused(content, keys, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_matrix({**content, **keys})


def test_a_name_that_is_taken_is_refused(content):
    content["arms"]["plain-time-mhc"] = {"config": ["plain.yaml"], "set": {"trainer.max_epochs": 50}}
    with pytest.raises(ValueError, match="beside an arm 'plain-time-mhc', expected that name free; rename it"):
        parse_matrix({**content, "equal_time": ["mhc"]})
