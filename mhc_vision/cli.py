"""The console script `mhc-vision`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.analysis.run_report import write_run_report
from mhc_vision.training.cli import SUBCOMMANDS, TrainCLI, fail
from mhc_vision.training.export import export_checkpoint
from mhc_vision.training.interrupt import TrainingInterrupted

COMMANDS = ("train", "export")


def main(args: Sequence[str] | None = None) -> None:
    """Runs `mhc-vision`: `[train] [fit | validate | test] [options]` or `export CHECKPOINT DIRECTORY`.

    `train` may be left out, and so may `fit`: `main(["--config", "configs/digits.yaml"])` trains. A finished training
    leaves `report.md` and `figures/` in its run directory.

    Args:
        args: The words of the command line; `None` takes them from `sys.argv`.

    Raises:
        SystemExit: With status 2 for bad input, 130 after an interrupt.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] == "export":
        return _export(words[1:])
    if words and words[0] == "train":
        words = words[1:]
    elif words and not words[0].startswith("-") and words[0] not in SUBCOMMANDS:
        fail(f"unknown command {words[0]!r}; there is: {', '.join(COMMANDS)}", status=2)
    if not words or (words[0] not in SUBCOMMANDS and words[0] not in ("-h", "--help")):
        words.insert(0, "fit")
    try:
        _train(words)
    except TrainingInterrupted as interrupt:
        fail(str(interrupt), status=130)
    except KeyboardInterrupt:
        fail("interrupted", status=130)
    except SystemExit as stop:
        # what Lightning makes of an interrupt inside the trainer, with status 1
        if isinstance(stop.__context__, KeyboardInterrupt):
            fail("interrupted", status=130)
        raise


def _train(words: list[str]) -> None:
    cli = TrainCLI(words)
    # without a logger there are no records to report on
    if words[0] == "fit" and cli.trainer.loggers and cli.trainer.is_global_zero:
        print(f"report: {write_run_report(Path(cli.trainer.default_root_dir))}")


def _export(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="mhc-vision export", description="Write a model that timm loads.")
    parser.add_argument("checkpoint", type=Path, help="of a training run")
    parser.add_argument("directory", type=Path, help="a new directory; timm loads it as local-dir:DIRECTORY")
    parser.add_argument("--weights", choices=("default", "raw"), default="default", help="raw: not the average of EMA")
    arguments = parser.parse_args(words)
    try:
        export_checkpoint(arguments.checkpoint, arguments.directory, arguments.weights)
    except ValueError as error:
        fail(f"error: {error}", status=2)
    print(f"exported: {arguments.directory}")
