from pathlib import Path

import pytest

from mhc_vision.command_line.recipes import config_path, find_recipe, list_recipes, with_config_paths

CONFIGS = Path(__file__).parents[2] / "configs"


def test_each_configuration_file_is_a_recipe_with_a_purpose():
    recipes = {recipe.name: recipe.purpose for recipe in list_recipes()}
    files = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))
    assert sorted(recipes) == files
    assert all(recipes.values())
    assert recipes["connections/baseline"] == "Overlay: the plain residual, one stream"


@pytest.mark.parametrize("name", ["finetune/cifar100", "finetune/cifar100.yaml", "configs/finetune/cifar100.yaml"])
def test_a_recipe_is_found_away_from_the_checkout(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == CONFIGS / "finetune" / "cifar100.yaml"
    assert config_path(name) == str(CONFIGS / "finetune" / "cifar100.yaml")


@pytest.mark.parametrize("name", ["", "..", "../pyproject", "configs", "finetune", "/etc/passwd", "nothing"])
def test_what_is_no_recipe_is_not_found(name):
    assert find_recipe(name) is None


def test_a_file_of_ones_own_comes_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text("model: {lr: 1}\n")
    assert config_path("digits") == "digits"
    Path("digits").unlink()
    Path("digits").mkdir()
    assert config_path("digits") == str(CONFIGS / "digits.yaml")


def test_names_in_a_command_line_become_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    digits, mhc = str(CONFIGS / "digits.yaml"), str(CONFIGS / "connections" / "mhc.yaml")
    words = [
        "fit",
        "--config",
        "digits",
        "-c",
        "connections/mhc",
        "--config=digits",
        "--config",
        "model: {lr: 1}",
        "-x",
    ]
    expected = ["fit", "--config", digits, "-c", mhc, f"--config={digits}", "--config", "model: {lr: 1}", "-x"]
    assert with_config_paths(words) == expected


def test_the_error_has_the_nearest_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("{}\n")
    with pytest.raises(ValueError, match=r"config: got mine.yml, which is no file, .*nearest: mine.yaml"):
        config_path("mine.yml")
    with pytest.raises(ValueError, match=r"nearest: finetune/cifar10"):
        config_path("finetune/cifar_10")
