"""Step times are measured once, kept, and asked for again where settings have changed; here by a child that is none."""

import json

import pytest

from mhc_vision.comparison.plan.equal_time import with_equal_time
from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.run import step_times
from mhc_vision.comparison.run.directory import ComparisonDirectory
from mhc_vision.comparison.run.slots import Slot
from mhc_vision.comparison.run.step_times import measure_step_times, read_step_times


@pytest.fixture
def directory(tmp_path):
    return ComparisonDirectory(tmp_path / "out")


@pytest.fixture
def requests(monkeypatch):
    """What was asked to be measured; the k-th measurement finds a ratio of k + 1."""
    asked = []

    class Finished:
        def __init__(self, status):
            self.status = status

        def wait(self):
            return self.status

    def start(command, environment, log, lock):
        request = json.loads(command[-1])
        asked.append(request)
        if "broken" in request["runs"]:
            log.write(b"building\nmhc-vision: error: lr: got -1, expected\n  a number above 0\n")
            return Finished(2)
        numbers = {"seconds": 0.2, "baseline_seconds": 0.1, "rounds": 10, "baseline_steps": 100}
        time = {"ratio": len(asked) + 1.0, **numbers, "baseline_validations": 4, "accumulated": 1}
        arms = {arm: time for arm in request["runs"] if arm != request["baseline"]}
        with open(request["out"], "w") as out:
            json.dump({"device": "cpu", "threads": 1, "versions": {}, "arms": arms}, out)
        return Finished(0)

    monkeypatch.setattr(step_times.child, "start", start)
    return asked


def _ratios(matrix, directory):
    return {arm: time.ratio for arm, time in read_step_times(matrix, directory)["digits"].items()}


def test_what_is_measured_stays_so_that_the_runs_stay_the_same(content, directory, requests):
    matrix = parse_matrix({**content, "equal_time": {"arms": ["mhc"], "seconds": 3}})
    measure_step_times(matrix, directory, Slot(""))
    (request,) = requests
    assert (request["command"], request["baseline"], request["seconds"]) == ("train", "plain", 3)
    assert list(request["runs"]) == ["plain", "mhc"]
    assert request["runs"]["mhc"][:4] == ["--config", "recipe.yaml", "--config", "mhc.yaml"]
    measure_step_times(matrix, directory, Slot(""))
    assert len(requests) == 1
    assert _ratios(matrix, directory) == {"mhc": 2.0}
    # more seeds are no reason to measure again, and the directory is that of a comparison
    more = parse_matrix({**content, "equal_time": ["mhc"], "seeds": [5, 0, 1]})
    measure_step_times(more, directory, Slot(""))
    assert len(requests) == 1
    assert with_equal_time(more, read_step_times(more, directory)).cells[2].options["trainer.max_steps"] == 200


def test_an_arm_that_comes_later_is_measured_and_the_others_keep_theirs(content, directory, requests):
    matrix = parse_matrix({**content, "equal_time": ["mhc"]})
    measure_step_times(matrix, directory, Slot(""))
    content["arms"]["more"] = {"config": ["mhc.yaml"], "set": {"model.lr": 3}}
    matrix = parse_matrix({**content, "equal_time": ["mhc", "more"]})
    measure_step_times(matrix, directory, Slot(""))
    assert list(requests[1]["runs"]) == ["plain", "more"]
    assert _ratios(matrix, directory) == {"mhc": 2.0, "more": 3.0}


def test_other_settings_are_measured_again_and_not_taken_from_the_records(content, directory, requests):
    matrix = parse_matrix({**content, "equal_time": ["mhc"]})
    measure_step_times(matrix, directory, Slot(""))
    wider = parse_matrix({**content, "equal_time": ["mhc"], "set": {"model.dim": 9}})
    with pytest.raises(ValueError, match=r"step_times\.json without the step time of digits/mhc as it is set up now"):
        read_step_times(wider, directory)
    measure_step_times(wider, directory, Slot(""))
    assert _ratios(wider, directory) == {"mhc": 3.0}


def test_without_arms_at_equal_time_nothing_is_measured_or_written(matrix, directory, requests):
    measure_step_times(matrix, directory, Slot(""))
    assert read_step_times(matrix, directory) == {}
    assert not requests
    assert not directory.path.exists()


def test_a_run_that_cannot_be_measured_is_said_with_its_reason(content, directory, requests):
    content["arms"]["broken"] = {"config": ["mhc.yaml"], "set": {"model.lr": -1}}
    matrix = parse_matrix({**content, "equal_time": ["mhc"]})
    reason = "digits cannot be measured: mhc-vision: error: lr: got -1, expected\n  a number above 0$"
    with pytest.raises(ValueError, match=f"^equal_time: steps on {reason}"):
        measure_step_times(matrix, directory, Slot(""))
    assert not (directory.path / "step_times.json").exists()
