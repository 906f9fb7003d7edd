"""The console script `mhc-vision`."""

import importlib
import sys
from collections.abc import Sequence

from mhc_vision.checks import nearest
from mhc_vision.command_start import readers_may_leave
from mhc_vision.training.cli import SUBCOMMANDS
from mhc_vision.training.messages import fail

COMMANDS = {
    "train": "train, validate or test a model on a dataset (LightningCLI)",
    "finetune": "fine-tune or probe a pretrained ViT, plain or with connections, on another dataset",
    "evaluate": "accuracy of a checkpoint or a timm model on a folder of images",
    "predict": "the most probable classes of images: files or folders, as CSV or JSON",
    "analyze": "what the connections of a model do: gains, maps, streams, as figures, numbers and a page",
    "export": "write a training checkpoint as a directory that timm loads, or any model as ONNX",
    "compare": "run a matrix of trainings and report on it: tables, figures, intervals",
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs `mhc-vision COMMAND ...`; `train` may be left out: `main(["--config", "configs/digits.yaml"])` trains.

    Args:
        args: The words of the command line; `None` takes them from `sys.argv`.

    Raises:
        SystemExit: With status 2 for bad input, 130 after an interrupt of a training.
    """
    words = list(sys.argv[1:] if args is None else args)
    with readers_may_leave():
        if not words or words[0] in ("-h", "--help"):
            print(_usage())
        else:
            _run(words)


def _run(words: list[str]) -> None:
    name = "train"
    if words[0] in COMMANDS:
        name = words.pop(0)
    elif not words[0].startswith("-") and words[0] not in SUBCOMMANDS:
        hint = nearest(words[0], COMMANDS)
        fail(f"unknown command {words[0]!r}; there is: {', '.join(COMMANDS)}{hint}", status=2)
    importlib.import_module(f"mhc_vision.commands.{name}").run(words)


def _usage() -> str:
    lines = [f"  {name:10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["usage: mhc-vision COMMAND ...", "", *lines, "", "mhc-vision COMMAND --help says more"])
