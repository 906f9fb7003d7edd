"""Completion of commands, options and recipes by a shell: `eval "$(register-python-argcomplete mhc-vision)"`."""

import argparse
import importlib
from collections.abc import Iterable

from mhc_vision.command_line.catalog import catalog
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.recipes import list_recipes


def complete(commands: Iterable[str]) -> None:
    """Answers the shell, and ends the program.

    Args:
        commands: Names of modules of `mhc_vision.commands`; those with a `parser` complete by it, `train` and
            `finetune` by the names of their options.

    Raises:
        SystemExit: With status 2, if argcomplete is not installed.
    """
    try:
        import argcomplete
    except ImportError:
        fail("error: completion needs argcomplete; pip install 'mhc-vision[completion]'", status=2)
    main = argparse.ArgumentParser(prog="mhc-vision")
    subparsers = main.add_subparsers()
    for name in commands:
        if name in catalog().options:
            _add_options(subparsers.add_parser(name), name)
        else:
            parser = importlib.import_module(f"mhc_vision.commands.{name}").parser()
            subparsers.add_parser(name, parents=[parser], add_help=False)
    argcomplete.autocomplete(main)


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """The options of `train` or `finetune`, and of all data modules."""
    data = {f"data.{name}" for options in catalog().data_options.values() for name in options}
    known = {f"--{name}" for name in (*catalog().options[command], *data)} - {"--help", "--config"}
    for word in sorted(known):
        parser.add_argument(word)
    parser.add_argument("--config").completer = lambda **_: [recipe.name for recipe in list_recipes()]  # type: ignore[attr-defined]
