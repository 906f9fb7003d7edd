"""`mhc-vision show`: the text of a recipe."""

from collections.abc import Sequence

from mhc_vision.checks import nearest
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.recipes import find_recipe, list_recipes
from mhc_vision.commands.arguments import CommandParser


def run(words: Sequence[str]) -> None:
    """Runs `RECIPE`: prints the configuration file of that name.

    Raises:
        SystemExit: With status 2 for bad input.
    """
    name = parser().parse_args(words).recipe
    path = find_recipe(name)
    if path is None:
        names = [recipe.name for recipe in list_recipes()]
        hint = nearest(name, names) or "; mhc-vision list recipes prints them"
        fail(f"error: recipe: got {name!r}, expected the name of a recipe{hint}", status=2)
    print(path.read_text(encoding="utf-8"), end="")


def parser() -> CommandParser:
    """Of the words after `show`."""
    made = CommandParser(prog="mhc-vision show", description="Print a recipe, to read it or to start one of your own.")
    made.add_argument("recipe", metavar="RECIPE", help="such as finetune/cifar100; all: mhc-vision list recipes")
    return made
