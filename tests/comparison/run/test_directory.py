import json
import re

import pytest

from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.run.directory import ComparisonDirectory, first_difference


@pytest.fixture
def directory(tmp_path, matrix, write_run):
    """Of the matrix, with one finished run."""
    directory = ComparisonDirectory(tmp_path / "out")
    directory.claim(matrix)
    directory.begin(matrix.cells[0])
    write_run(directory.run_dir(matrix.cells[0]), matrix.cells[0])
    return directory


def test_seeds_and_arms_may_come_and_go(directory, content):
    content["seeds"] = [0, 7]
    content["arms"]["more"] = {"config": ["mhc.yaml"], "set": {"model.lr": 3}}
    del content["arms"]["mhc"]
    more = parse_matrix(content)
    directory.check(more)
    assert [cell.name for cell in more.cells if directory.is_finished(cell)] == ["digits/plain/seed0"]


def test_what_is_excluded_may_come_and_go_and_is_on_record(directory, content):
    content["recipes"]["other"] = {"config": ["recipe.yaml"], "set": {"model.lr": 3}}
    fewer = parse_matrix({**content, "exclude": ["digits/plain"]})
    directory.check(fewer)
    directory.claim(fewer)
    assert json.loads((directory.path / "matrix.json").read_text())["excluded"] == {"digits": ["plain"]}
    directory.check(parse_matrix(content))


def test_settings_that_json_does_not_have_are_the_same_again(tmp_path, content, write_run):
    matrix = parse_matrix({**content, "set": {"trainer.gradient_clip_val": float("inf")}})
    directory = ComparisonDirectory(tmp_path / "out")
    directory.claim(matrix)
    directory.begin(matrix.cells[0])
    write_run(directory.run_dir(matrix.cells[0]), matrix.cells[0])
    directory.check(matrix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "with the comparison 'tiny', expected 'other'"),
        ({"set": {"model.depth": 3}}, "of another matrix, expected this one: options.model.depth is only given (3)"),
        ({"command": "finetune"}, "of another matrix, expected this one: command is only given ('finetune')"),
        ({"threads": 2}, "of another matrix, expected this one: threads was 1, now it is 2"),
        (
            {"arms": {"plain": ["mhc.yaml"]}},
            "of another matrix, expected this one: configs[1].model.connection was None, now it is 'mhc'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_matrix_is_refused_with_the_difference(directory, content, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        directory.check(parse_matrix({**content, **change}))


def test_a_run_that_never_took_a_step_may_be_changed(directory, matrix, content):
    failed = matrix.cells[1]
    directory.begin(failed)
    directory.fail(failed, 2, "lr must be positive")
    content["arms"]["mhc"]["set"] = {"model.lr": 0.5}
    directory.check(parse_matrix(content))


def test_directories_of_something_else_are_refused(tmp_path, matrix, write_run):
    new = ComparisonDirectory(tmp_path / "new")
    new.check(matrix)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"without matrix\.json, expected a new directory"):
        ComparisonDirectory(tmp_path / "thesis").check(matrix)
    new.claim(matrix)
    write_run(new.run_dir(matrix.cells[0]), matrix.cells[0])
    with pytest.raises(ValueError, match=r"without cell\.json, expected a run that a comparison made"):
        new.check(matrix)


def test_a_failure_is_forgotten_when_the_run_starts_again(directory, matrix):
    cell = matrix.cells[0]
    directory.fail(cell, 1)
    assert not directory.is_finished(cell)
    directory.begin(cell)
    assert directory.failure(cell) is None
    assert directory.is_finished(cell)


def test_a_failure_keeps_the_end_of_what_was_printed(directory, matrix):
    cell = matrix.cells[0]
    (directory.run_dir(cell) / "train.log").write_text("".join(f"line {i}\n\n" for i in range(100)))
    failure = directory.fail(cell, 3)
    assert failure == directory.failure(cell)
    assert failure.lines[-1] == "line 99"
    assert len(failure.lines) == 12


def test_one_comparison_at_a_time(directory):
    other = ComparisonDirectory(directory.path)
    with directory.locked(), pytest.raises(ValueError, match="another comparison"), other.locked():
        pass
    with other.locked():
        pass


def test_the_first_difference_is_named_by_its_path():
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) is None
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a[1].b was 2, now it is 3"
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == "a was [1], now it is [1, 2]"
    assert first_difference({"a": 1, "b": 2}, {"a": 1}) == "b is only stored (2)"
