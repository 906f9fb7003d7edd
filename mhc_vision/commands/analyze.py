"""`mhc-vision analyze`: what the connections of a model do with some images."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from mhc_vision.analysis.analysis_report import check_new_directory, write_analysis
from mhc_vision.analysis.measure_model import as_hyper_connected, measure_model
from mhc_vision.analysis.summary_table import summary_rows
from mhc_vision.checks import check_whole_number
from mhc_vision.commands.arguments import CommandParser
from mhc_vision.inference.evaluate import EvaluationOptions
from mhc_vision.inference.load_model import LoadedModel, load_model
from mhc_vision.inference.model_identity import model_identity
from mhc_vision.inference.run_data import load_run_data, run_config
from mhc_vision.inference.sample_images import SampleImages, images_of_data, images_of_folder, random_images
from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.names import split_name
from mhc_vision.report.figures import new_figure
from mhc_vision.report.markdown import markdown_table
from mhc_vision.training.messages import fail
from mhc_vision.version import versions

_RANDOM = "random"


def run(words: Sequence[str]) -> None:
    """Runs `MODEL --out DIRECTORY [options]`: writes figures, numbers and a page, and prints the main figures.

    Raises:
        SystemExit: With status 2 for bad input.
    """
    arguments = _parser().parse_args(words)
    try:
        record = _analyze(arguments)
        record["command"] = ["mhc-vision", "analyze", *words]
        report = write_analysis(record, arguments.out)
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)
    print(markdown_table(summary_rows(record)))
    print(f"report: {report}")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="mhc-vision analyze",
        description="Gains, maps, unfolded connections, branch inputs, streams and coefficients of a model.",
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a checkpoint of mhc-vision train, a directory of mhc-vision export, or a timm ViT (NAME[.TAG], "
        "hf-hub:..., local-dir:...), plain or hyper-connected",
    )
    add("--out", type=Path, required=True, metavar="DIRECTORY", help="a new directory")
    add(
        "--data",
        metavar="FOLDER",
        help="images, as FOLDER/<class>/* or with such a val/ or test/ in it; 'random' for noise in place of images; "
        "default: the evaluation images of the checkpoint's run",
    )
    add("--connection", choices=CONNECTIONS, help="of a plain timm name")
    add(
        "--weights",
        choices=("default", "raw", "initial"),
        default="default",
        help="raw: of a checkpoint, not the average of EMA; initial: of a timm name, before any training",
    )
    add("--num-images", type=int, default=64)
    add("--batch-size", type=int, default=16, help="images at once; changes memory and time only")
    add("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda:1, ...")
    return parser


def _analyze(arguments: argparse.Namespace) -> dict[str, Any]:
    device = EvaluationOptions(batch_size=arguments.batch_size, device=arguments.device).torch_device()
    check_whole_number("num_images", arguments.num_images, at_least=1)
    check_new_directory(arguments.out)
    # without matplotlib all measuring would be in vain
    new_figure(1.0, 1.0)
    _check_kind(arguments.model)
    loaded = load_model(
        arguments.model, connection=arguments.connection, weights=arguments.weights, needs_rgb_classes=False
    )
    images = _images(arguments, loaded)
    identity = model_identity(loaded)
    record = measure_model(loaded.model.to(device), _on_device(images, device), images.class_names)
    # measured figures follow, of which two have the same names
    record["model"] = {**identity, **record["model"]}
    return {"source": loaded.source, "data": images.source, **record, "versions": versions()}


def _check_kind(name: str) -> None:
    """Refuse a timm name without residual additions that connections can replace, before its weights are loaded."""
    registered = split_name(name).registered
    if timm.is_model(registered) and not Path(name).exists():
        with torch.device("meta"):
            as_hyper_connected(timm.create_model(registered))


def _images(arguments: argparse.Namespace, loaded: LoadedModel) -> SampleImages:
    sizes = arguments.num_images, arguments.batch_size
    if arguments.data == _RANDOM:
        return random_images(loaded, *sizes)
    if arguments.data is not None:
        return images_of_folder(Path(arguments.data), loaded, *sizes)
    checkpoint = Path(arguments.model)
    config = run_config(checkpoint) if checkpoint.is_file() else None
    if config is None:
        raise ValueError(
            f"data: got none, expected images: {arguments.model} has no run directory with a config.yaml; give --data"
        )
    return images_of_data(load_run_data(config), *sizes)


def _on_device(images: SampleImages, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for batch, labels in images.batches:
        yield batch.to(device), labels
