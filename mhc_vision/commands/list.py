"""`mhc-vision list`: what can be named on a command line."""

from collections.abc import Callable, Sequence

from mhc_vision.command_line.catalog import catalog
from mhc_vision.command_line.recipes import list_recipes
from mhc_vision.commands.arguments import CommandParser

KINDS: dict[str, tuple[str, Callable[[], dict[str, str]]]] = {
    "models": (
        "timm.create_model(NAME); * is a connection, such as vit_base_patch16_224_mhc; sizes without it",
        lambda: {f"{name}_*": line for name, line in catalog().models.items()},
    ),
    "recipes": (
        "--config NAME of train and finetune, compare NAME for those in compare/; show NAME prints one",
        lambda: {recipe.name: recipe.purpose for recipe in list_recipes()},
    ),
    "connections": ("--model.connection NAME, or at the end of a model's name", lambda: catalog().connections),
    "designs": ("--model.connection NAME, to compare connections with", lambda: catalog().designs),
    "datasets": (
        "--data DownstreamDataModule --data.dataset NAME, and finetune/NAME among the recipes",
        lambda: catalog().datasets,
    ),
}


def run(words: Sequence[str]) -> None:
    """Runs `[models | recipes | connections | designs | datasets]`: a line for each name, of all kinds without a word.

    Raises:
        SystemExit: With status 2 for bad input.
    """
    kind = parser().parse_args(words).kind
    kinds = list(KINDS) if kind is None else [kind]
    for index, name in enumerate(kinds):
        purpose, lines_of = KINDS[name]
        lines = lines_of()
        width = max(map(len, lines))
        if len(kinds) > 1:
            print("" if index == 0 else "\n", end="")
            print(f"{name}: {purpose}")
        for entry, line in lines.items():
            print(f"{entry:{width}}  {line}")


def parser() -> CommandParser:
    """Of the words after `list`."""
    made = CommandParser(prog="mhc-vision list", description="Print what can be named on a command line, a line each.")
    made.add_argument("kind", nargs="?", choices=tuple(KINDS), help="default: all of them")
    return made
