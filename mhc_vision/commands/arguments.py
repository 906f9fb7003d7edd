"""Argument parser with one-line errors, and the options that name a model and say how it runs."""

import argparse
import re
from typing import NoReturn

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
