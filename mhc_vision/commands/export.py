"""`mhc-vision export`: from a training checkpoint to a directory that timm loads, or from any model to ONNX."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.commands.command_parser import CommandParser
from mhc_vision.commands.model_arguments import MODEL, add_model_options
from mhc_vision.inference.export_onnx import OPSET, export_onnx
from mhc_vision.inference.export_timm import export_checkpoint
from mhc_vision.inference.load_model import ModelOptions
from mhc_vision.training.messages import fail


def run(words: Sequence[str]) -> None:
    """Runs `MODEL DIRECTORY [--format onnx] [options]`.

    Raises:
        SystemExit: With status 2 for bad input.
    """
    arguments = _parser().parse_args(words)
    try:
        if arguments.format == "onnx":
            _export_onnx(arguments)
        else:
            _check_no_onnx_options(arguments)
            export_checkpoint(Path(arguments.model), arguments.directory, arguments.weights)
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)
    print(f"exported: {arguments.directory}")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="mhc-vision export", description="Write a model that timm loads, or that ONNX runtimes run."
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"a checkpoint of mhc-vision train; for ONNX, {MODEL}")
    add("directory", metavar="DIRECTORY", type=Path, help="a new one; timm loads it as local-dir:DIRECTORY")
    add(
        "--format",
        choices=("timm", "onnx"),
        default="timm",
        help=f"onnx: model.onnx (opset {OPSET}, any number of normalised images to logits, checked in onnxruntime) and "
        "model.json; takes a minute where Sinkhorn-Knopp is unrolled. All options but --weights are for onnx",
    )
    add_model_options(parser)
    return parser


def _check_no_onnx_options(arguments: argparse.Namespace) -> None:
    for name in ("connection", "img_size", "crop_pct"):
        if (value := getattr(arguments, name)) is not None:
            raise ValueError(f"{name}: got {value!r}, expected it with --format onnx only: a checkpoint has its own")


def _export_onnx(arguments: argparse.Namespace) -> None:
    options = ModelOptions(arguments.connection, arguments.weights, arguments.img_size, arguments.crop_pct)
    check = export_onnx(arguments.model, arguments.directory, options)["check"]
    print(f"onnxruntime gives PyTorch's logits to {check['relative_difference']:.2g} of the largest one")
