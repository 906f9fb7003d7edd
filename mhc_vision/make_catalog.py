"""Writes what can be named on a command line: `python -m mhc_vision.make_catalog`."""

import inspect
from typing import Any

import timm
import torch

from mhc_vision import data
from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.command_line.catalog import CATALOG, Catalog
from mhc_vision.command_line.option_names import SUBCOMMANDS
from mhc_vision.data.downstream.catalog import SETS
from mhc_vision.data.downstream.spec import TorchvisionSet
from mhc_vision.finetuning.cli import FinetuneCLI, SegmentationCLI
from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.architectures import EVAS, VISION_TRANSFORMERS
from mhc_vision.models.designs import DESIGNS
from mhc_vision.training.cli import TrainCLI
from mhc_vision.training.options.errors import parameters_of


def make_catalog() -> Catalog:
    """The names that the package has, found by importing it."""
    return Catalog(
        models={name: model_line(name) for name in (*VISION_TRANSFORMERS, *EVAS)},
        connections={name: _first_line(connection) for name, connection in CONNECTIONS.items()},
        designs=DESIGNS,
        datasets={name: _dataset(dataset) for name, dataset in SETS.items()},
        options={
            "train": _options(TrainCLI),
            "finetune": _options(FinetuneCLI),
            "segmentation": _options(SegmentationCLI),
        },
        data_options={name: sorted(parameters_of(getattr(data, name))) for name in data.__all__},
    )


def model_line(architecture: str) -> str:
    """Size of the plain model of this name, and of the images that it takes."""
    with torch.device("meta"):
        model: Any = timm.create_model(architecture)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{parameters / 1e6:,.1f} M parameters, {model.default_cfg['input_size'][-1]} pixels"


def _dataset(dataset: TorchvisionSet) -> str:
    counts = ", ".join(f"{split.num_images:,} {name}" for name, split in dataset.splits.items())
    return f"torchvision's {dataset.class_name}: {counts}"


class _ParsersBuilt(Exception):
    """Carries the parsers of the subcommands out of a command that would go on to parse."""


def _options(command: type[TrainCLI]) -> list[str]:
    """Names of what the parsers of the subcommands know; the options of data modules are not among them."""

    class Command(command):  # type: ignore[valid-type, misc]
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise _ParsersBuilt(self._subcommand_parsers)

    try:
        Command([SUBCOMMANDS[0]])
    except _ParsersBuilt as built:
        (parsers,) = built.args
    actions = [action for parser in parsers.values() for action in parser._actions]
    words = {word.removeprefix("--") for action in actions for word in action.option_strings if word.startswith("--")}
    return sorted(words | {action.dest for action in actions})


def _first_line(thing: type) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].removesuffix(".")


if __name__ == "__main__":
    replace_text(CATALOG, json_text(make_catalog()._asdict(), indent=1) + "\n")
