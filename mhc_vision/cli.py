"""The console script `mhc-vision`."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from mhc_vision.checks import nearest
from mhc_vision.command_line.messages import fail, process_rank, shown_notes
from mhc_vision.command_line.option_names import SUBCOMMANDS
from mhc_vision.command_start import readers_may_leave
from mhc_vision.silenced import silenced
from mhc_vision.termination import Terminated, exit_status, terminable
from mhc_vision.version import __version__

COMMANDS = {
    "train": "train, validate or test a model on a dataset",
    "finetune": "fine-tune or probe a pretrained ViT, plain or with connections, on a dataset or a folder of photos",
    "evaluate": "accuracy of a checkpoint or a timm model on a folder of images",
    "predict": "the most probable classes of images: files or folders, as CSV or JSON",
    "embed": "features of images, kNN retrieval with them, and pictures of patch features",
    "analyze": "what the connections of a model do: gains, maps, streams, as figures, numbers and a page",
    "export": "write a training checkpoint as a directory that timm loads, or any model as ONNX",
    "profile": "what a model costs on this machine: memory and time by batch size, plain beside connected",
    "compare": "run a matrix of trainings and report on it: tables, figures, intervals",
    "list": "the models, recipes, connections and datasets that can be named",
    "show": "print a recipe",
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs `mhc-vision COMMAND ...`; `train` may be left out: `main(["--config", "digits"])` trains.

    Args:
        args: The words of the command line; `None` takes them from `sys.argv`.

    Raises:
        SystemExit: With status 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    if "_ARGCOMPLETE" in os.environ:
        from mhc_vision.command_line.completion import complete

        complete(COMMANDS)
    words = list(sys.argv[1:] if args is None else args)
    with readers_may_leave():
        if not words or words[0] in ("-h", "--help"):
            print(_usage())
            return
        if words == ["--version"]:
            print(f"mhc-vision {__version__}")
            return
        with terminable():
            try:
                with silenced(), shown_notes():
                    _run(words)
            except KeyboardInterrupt as interrupt:
                _end(interrupt)
            except SystemExit as stop:
                # what Lightning makes of an interrupt inside the trainer, with status 1
                if isinstance(stop.__context__, KeyboardInterrupt):
                    _end(stop.__context__)
                raise


def _run(words: list[str]) -> None:
    name = "train"
    if words[0] in COMMANDS:
        name = words.pop(0)
    elif not words[0].startswith("-") and words[0] not in SUBCOMMANDS:
        hint = nearest(words[0], COMMANDS)
        fail(f"error: command: got {words[0]!r}, expected one of {', '.join(COMMANDS)}{hint}", status=2)
    importlib.import_module(f"mhc_vision.commands.{name}").run(words)


def _end(interrupt: KeyboardInterrupt) -> NoReturn:
    """Ends the program as the signal asked; of several processes the first one speaks."""
    terminated = isinstance(interrupt, Terminated)
    if process_rank() == 0:
        print(f"mhc-vision: {'terminated' if terminated else 'interrupted'}", file=sys.stderr)
    sys.exit(exit_status(signal.SIGTERM if terminated else signal.SIGINT))


def _usage() -> str:
    lines = [f"  {name:10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["usage: mhc-vision COMMAND ...", "", *lines, "", "mhc-vision COMMAND --help says more"])
