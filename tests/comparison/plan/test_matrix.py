import datetime
import re
from pathlib import Path

import pytest

from mhc_vision.comparison.plan.matrix import load_matrix, parse_matrix


def test_cells_are_all_arms_of_a_seed_before_the_next_seed(matrix):
    assert [cell.name for cell in matrix.cells] == [
        "digits/plain/seed0",
        "digits/mhc/seed0",
        "digits/plain/seed1",
        "digits/mhc/seed1",
    ]
    assert matrix.baseline == "plain"


def test_options_of_an_arm_lie_above_those_of_the_matrix_and_below_the_callers(content):
    content["set"] = {"model.lr": 1.0, "trainer.max_epochs": 3}
    plain, mhc = parse_matrix(content).cells[:2]
    assert dict(plain.options) == {"model.lr": 1.0, "trainer.max_epochs": 3}
    assert dict(mhc.options) == {"model.lr": 0.01, "trainer.max_epochs": 3}
    assert parse_matrix(content, {"model.lr": 5.0}).cells[1].options["model.lr"] == 5.0


def test_a_seed_is_that_of_the_weights_and_of_the_data(matrix):
    words = matrix.cells[2].words(Path("out"))
    assert words[words.index("--seed_everything") + 1] == "1"
    assert words[words.index("--data.seed") + 1] == "1"
    assert words[words.index("--trainer.default_root_dir") + 1] == "out"
    assert words.index("recipe.yaml") < words.index("plain.yaml")


@pytest.mark.parametrize(
    ("value", "word"),
    [(None, "null"), (True, "true"), ([0.9, 0.99], "[0.9, 0.99]"), ("adamw", "adamw"), (2, "2"), (-1e-5, "-1e-05")],
)
def test_values_reach_the_command_line_as_yaml(content, value, word):
    content["set"] = {"model.x": value}
    words = parse_matrix(content).cells[0].words(Path("out"))
    assert f"--model.x={word}" in words


def test_datasets_multiply_recipes_and_numbers_of_streams_multiply_connected_arms(content):
    content["datasets"] = {"a": {"set": {"data.root": "a"}}, "b": {"set": {"data.root": "b"}}}
    content["num_streams"] = [2, 4]
    matrix = parse_matrix(content)
    assert matrix.tasks == ("digits-a", "digits-b")
    assert matrix.arms == ("plain", "mhc-n2", "mhc-n4")
    assert len(matrix.cells) == 2 * 3 * 2
    assert matrix.cells[1].options["model.num_streams"] == 2
    assert "model.num_streams" not in matrix.cells[0].options


def test_a_dataset_lies_above_a_recipe_of_training_and_below_a_method_of_fine_tuning(content):
    content["recipes"] = {"lora": {"config": ["recipe.yaml"], "set": {"model.lr": 1}}}
    content["datasets"] = {"pets": {"config": ["plain.yaml"], "set": {"model.lr": 2}}}
    content["arms"] = {"mhc": ["mhc.yaml"]}
    train = parse_matrix(content)
    assert (train.cells[0].configs[:2], train.cells[0].options["model.lr"]) == (("recipe.yaml", "plain.yaml"), 2)
    finetune = parse_matrix({**content, "command": "finetune"})
    assert (finetune.cells[0].configs[:2], finetune.cells[0].options["model.lr"]) == (("plain.yaml", "recipe.yaml"), 1)
    assert train.tasks == finetune.tasks == ("lora-pets",)


def test_the_command_is_part_of_what_a_run_is_unless_it_is_train(matrix, content):
    # so that directories from before stay valid
    assert "command" not in matrix.cells[0].identity()
    assert parse_matrix({**content, "command": "train"}).cells[0].identity() == matrix.cells[0].identity()
    finetune = parse_matrix({**content, "command": "finetune"}).cells[0].identity()
    assert finetune == {**matrix.cells[0].identity(), "command": "finetune"}


def test_excluded_combinations_have_no_runs(content):
    content["datasets"] = {"a": {"set": {"data.root": "a"}}, "b": {"set": {"data.root": "b"}}}
    content["recipes"] = {"full": ["recipe.yaml"], "connections": {"config": ["recipe.yaml"], "set": {"model.lr": 3}}}
    matrix = parse_matrix({**content, "exclude": ["connections-*/plain", "full-b/m?c"]})
    assert [cell.name for cell in matrix.cells if cell.seed == 0] == [
        "full-a/plain/seed0",
        "full-a/mhc/seed0",
        "full-b/plain/seed0",
        "connections-a/mhc/seed0",
        "connections-b/mhc/seed0",
    ]
    assert matrix.tasks == ("full-a", "full-b", "connections-a", "connections-b")
    assert [matrix.excluded_arms(task) for task in matrix.tasks] == [(), ("mhc",), ("plain",), ("plain",)]


def test_an_identity_is_what_files_say_not_what_they_are_called(matrix, content, tmp_path):
    identity = matrix.cells[0].identity()
    (tmp_path / "recipe.yaml").rename(tmp_path / "renamed.yaml")
    (tmp_path / "renamed.yaml").write_text("# a comment\n" + (tmp_path / "renamed.yaml").read_text())
    content["recipes"] = {"digits": ["renamed.yaml"]}
    assert parse_matrix(content).cells[0].identity() == identity
    (tmp_path / "renamed.yaml").write_text("model: {name: test_vit, lr: 2}\n")
    assert parse_matrix(content).cells[0].identity() != identity


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {name: [", "plain.yaml: line 2, column 1: no YAML: "),
        ("- model", "plain.yaml: got ['model'], expected a mapping"),
    ],
)
def test_a_broken_configuration_file_is_named_before_a_run_starts(content, tmp_path, text, message):
    (tmp_path / "plain.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_matrix(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [0]}, "got the key 'seed', expected one of name, command, recipes"),
        ({"arms": {"mhc": {"configs": ["mhc.yaml"]}}}, "arms.mhc: got the key 'configs', expected one of config, set"),
        ({"arms": {"mhc": {"config": "mhc.yaml"}}}, "arms.mhc: config: got 'mhc.yaml', expected a list of YAML files"),
        ({"arms": {}}, "arms: got none, expected at least one"),
        ({"arms": {"m/h": ["mhc.yaml"]}}, "got the name 'm/h'"),
        ({"arms": {"mhc": ["hmc.yaml"]}}, "digits/mhc: got hmc.yaml, expected a file below"),
        ({"recipes": ["recipe.yaml"]}, "recipes: got ['recipe.yaml'], expected a mapping"),
        ({"recipes": {"figures": ["recipe.yaml"]}}, "recipes: got the name 'figures'"),
        ({"command": "finetun"}, "command: got 'finetun', expected one of train, finetune"),
        ({"command": None}, "command: got None, expected one of train, finetune"),
        ({"exclude": "digits/mhc"}, "exclude: got 'digits/mhc', expected a list of patterns"),
        ({"exclude": [1]}, "exclude: got [1], expected a list of patterns"),
        (
            {"exclude": ["digit/mhc"]},
            "exclude: got 'digit/mhc', expected a pattern that fits one of digits/plain, digits/mhc",
        ),
        ({"exclude": ["DIGITS/mhc"]}, "exclude: got 'DIGITS/mhc', expected a pattern that fits one of"),
        ({"exclude": ["*/plain"]}, "exclude: got all of the arm plain, expected some left; leave it out of the matrix"),
        ({"exclude": ["*"]}, "exclude: got all of the task digits"),
        ({"baseline": "shc"}, "baseline: got 'shc', expected one of the arms: plain, mhc"),
        ({"seeds": 3}, "seeds: got 3, expected a list"),
        ({"seeds": [0, 0]}, "seeds: got [0, 0], expected each seed once"),
        ({"seeds": [True]}, "seeds: got True, expected a whole number from 0"),
        ({"num_streams": 4}, "num_streams: got 4, expected a list"),
        ({"threads": 0}, "threads: got 0, expected a whole number from 1"),
        ({"gpus": "1"}, "gpus: got '1', expected a whole number from 0"),
        ({"set": {"data.seed": 1}}, "set: got data.seed, expected it left out; use `seeds`"),
        ({"set": {"trainer.logger": False}}, "set: got trainer.logger"),
        ({"set": {"--model.lr": 1}}, "set: got the key '--model.lr'"),
        ({"set": {"data.root": datetime.date(2025, 1, 2)}}, "set: data.root: got datetime.date(2025, 1, 2), expected"),
        (
            {"num_streams": [2], "arms": {"plain": ["plain.yaml"]}},
            "num_streams: got [2], expected an arm that sets model.connec",
        ),
        ({"set": ["model.lr=1"]}, "set: got ['model.lr=1'], expected a mapping"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_named_with_what_was_expected(content, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_matrix({**content, **change})


@pytest.mark.parametrize("key", ["name", "recipes", "arms", "seeds"])
def test_what_is_needed_is_named(content, key):
    del content[key]
    with pytest.raises(ValueError, match=f"matrix: got no {key}, expected"):
        parse_matrix(content)


def test_two_runs_of_one_name_are_refused(content, tmp_path):
    content["num_streams"] = [2]
    content["arms"]["plain-n2"] = ["plain.yaml"]
    content["arms"]["plain"] = ["mhc.yaml"]
    with pytest.raises(ValueError, match="got two called plain-n2"):
        parse_matrix(content)
    (tmp_path / "twice.yaml").write_text("name: a\narms:\n  mhc: [a.yaml]\n  mhc: [b.yaml]\n")
    with pytest.raises(ValueError, match=r"twice\.yaml: line 4, column 3: got the key 'mhc' a second time"):
        load_matrix(tmp_path / "twice.yaml")


@pytest.mark.parametrize(("text", "message"), [("[1, 2]", "expected a mapping"), ("a: [", "no YAML")])
def test_a_file_that_is_no_matrix_is_named(tmp_path, text, message):
    path = tmp_path / "matrix.yaml"
    with pytest.raises(ValueError, match=r"matrix\.yaml, expected a YAML file"):
        load_matrix(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"matrix\.yaml.*{message}"):
        load_matrix(path)
