"""`mhc-vision export`: from a training checkpoint to a directory that timm loads."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.training.export import export_checkpoint
from mhc_vision.training.messages import fail


def run(words: Sequence[str]) -> None:
    """Runs `CHECKPOINT DIRECTORY [--weights raw]`.

    Raises:
        SystemExit: With status 2 for bad input.
    """
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
