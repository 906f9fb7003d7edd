"""The recipes that come with the package: configuration files and matrices of comparisons, found by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mhc_vision.checks import nearest

_SUFFIX = ".yaml"
_PACKAGE = Path(__file__).parents[1]
_CONFIG_OPTIONS = ("--config", "-c")


class Recipe(NamedTuple):
    """A recipe that comes with the package.

    Attributes:
        name: Its path in `configs/` without the suffix, such as `finetune/cifar100`.
        purpose: The first sentence of the comment at its head.
    """

    name: str
    purpose: str


def recipe_folder() -> Path:
    """`configs/`: within the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def list_recipes() -> list[Recipe]:
    """All recipes, sorted by name."""
    folder = recipe_folder()
    return [
        Recipe(path.relative_to(folder).with_suffix("").as_posix(), _purpose(path))
        for path in sorted(folder.rglob(f"*{_SUFFIX}"))
    ]


def find_recipe(name: str) -> Path | None:
    """The recipe of this name, with or without `configs/` before it and `.yaml` after it; `None` if there is none."""
    parts = Path(name.removesuffix(_SUFFIX)).parts
    if parts[:1] == ("configs",):
        parts = parts[1:]
    if not parts or ".." in parts or Path(*parts).is_absolute():
        return None
    path = recipe_folder().joinpath(*parts[:-1], parts[-1] + _SUFFIX)
    return path if path.is_file() else None


def config_path(name: str, argument: str = "config") -> str:
    """The file that a name means: a file of one's own first, then a recipe.

    Args:
        name: Of the file or the recipe.
        argument: What the error calls it.

    Raises:
        ValueError: There is neither.
    """
    if Path(name).is_file():
        return name
    if (recipe := find_recipe(name)) is not None:
        return str(recipe)
    what = "a folder" if Path(name).is_dir() else "no file"
    folder = Path(name).parent
    there = [str(path) for path in folder.glob("*.y*ml")] if folder.is_dir() else []
    hint = nearest(name, [*there, *(recipe.name for recipe in list_recipes())])
    raise ValueError(
        f"{argument}: got {name}, which is {what}, expected a YAML file or a recipe (mhc-vision list recipes){hint}"
    )


def is_inline(value: str) -> bool:
    """Whether the value of `--config` is YAML itself, such as `model: {lr: 0.1}`, and no name."""
    return ":" in value and not Path(value).is_file() and not value.endswith((_SUFFIX, ".yml"))


def with_config_paths(words: Sequence[str]) -> list[str]:
    """Words of a command line, with the path of the file in place of each recipe's name.

    Raises:
        ValueError: A `--config` names neither a file nor a recipe.
    """
    replaced: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and option in _CONFIG_OPTIONS:
            word = f"{option}={_path_or_inline(value)}"
        elif replaced and replaced[-1] in _CONFIG_OPTIONS and not word.startswith("-"):
            word = _path_or_inline(word)
        replaced.append(word)
    return replaced


def _path_or_inline(value: str) -> str:
    return value if is_inline(value) else config_path(value)


def _purpose(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with, or its first paragraph."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    paragraph = " ".join(lines)
    sentence, dot, _ = paragraph.partition(". ")
    return sentence.removesuffix(".") if dot or paragraph.endswith(".") else paragraph
