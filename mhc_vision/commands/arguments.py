"""Argument parser with one-line errors, and the options that name a model and say how it runs."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mhc_vision.atomic_files import check_writable
from mhc_vision.checks import nearest
from mhc_vision.command_line.catalog import catalog
from mhc_vision.command_line.messages import fail
from mhc_vision.inference.options import InferenceOptions

MODEL = (
    "a checkpoint of mhc-vision train, a directory of mhc-vision export, or a timm model (NAME[.TAG], hf-hub:..., "
    "local-dir:...), plain or hyper-connected"
)


class CommandParser(argparse.ArgumentParser):
    """argparse's, with one message for a mistake, names like a mistyped one, and no page of usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        hint = ""
        if match := re.match(r"unrecognized arguments: (-[^\s=]+)", message):
            hint = nearest(match[1], self._option_string_actions)
        elif match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", message):
            hint = nearest(match[1], re.findall(r"[\w.-]+", match[2]))
        fail(f"error: {message}{hint}; {self.prog} --help says more", status=2)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL and IMAGES, and how files are read."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add(
        "images",
        metavar="IMAGES",
        nargs="+",
        type=Path,
        help="files, and folders of which every file is read, at any depth; hidden ones are left out",
    )
    add(
        "--exif-orientation",
        choices=("auto", "on", "off"),
        default="auto",
        help="turn photos upright; auto: as the model was trained, and on for models that do not say",
    )


def check_new_file(path: Path, argument: str, force: bool) -> None:
    """Raise ValueError unless a file can be written, and is new or may be overwritten."""
    check_writable(path, argument)
    if path.exists() and not force:
        raise ValueError(f"{argument}: got {path}, which is there already, expected a new file, or --force")


def account_of_files(num_read: int, num_files: int, unreadable: Sequence[str], *said: str) -> None:
    """Says on stderr what was read, what else there is to say, and what was left out and why."""
    lines = [f"mhc-vision: {num_read:,} of {num_files:,} files read", *said]
    if unreadable:
        lines += [f"mhc-vision: {len(unreadable):,} left out:", *unreadable]
    print("\n".join(lines), file=sys.stderr)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `ModelOptions`."""
    add = parser.add_argument
    add("--connection", choices=tuple(catalog().connections), help="of a plain timm name")
    add("--weights", choices=("default", "raw"), default="default", help="raw: not the average of EMA")
    add("--img-size", type=int, metavar="PIXELS", help="in place of the model's own")
    add("--crop-pct", type=float, metavar="PART", help="in place of the model's own")


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `InferenceOptions`."""
    add = parser.add_argument
    add("--batch-size", type=int, default=InferenceOptions.batch_size)
    add("--num-workers", type=int, default=InferenceOptions.num_workers, help="processes that load images")
    add("--device", default=InferenceOptions.device, help="auto (a GPU where there is one), cpu, cuda:1, ...")
    add("--precision", choices=("32", "bf16"), default=InferenceOptions.precision)
