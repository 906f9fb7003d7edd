"""`mhc-vision export`: a training checkpoint as a directory that timm loads, here or on the Hub, or a model as ONNX."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.named_paths import check_model, check_there
from mhc_vision.commands.arguments import MODEL, CommandParser, add_model_options
from mhc_vision.inference.options import ModelOptions


def run(words: Sequence[str]) -> None:
    """Runs `MODEL DIRECTORY [--push OWNER/NAME] [--format onnx] [options]`.

    Raises:
        SystemExit: With status 2 for bad input or what the Hub refuses, 1 if the Hub cannot be reached.
    """
    arguments = parser().parse_args(words)
    try:
        _check_options(arguments)
        check_model(arguments.model)
        check_there("examples", arguments.examples, "images")
        if arguments.format == "onnx":
            _export_onnx(arguments)
        else:
            _export_timm(arguments)
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)


def parser() -> argparse.ArgumentParser:
    """Of the words after `export`."""
    made = CommandParser(
        prog="mhc-vision export",
        description="Write a model that timm loads, from here or the Hugging Face Hub, or that ONNX runtimes run.",
    )
    add = made.add_argument
    add("model", metavar="MODEL", help=f"a checkpoint of mhc-vision train; for ONNX, {MODEL}")
    add("directory", metavar="DIRECTORY", type=Path, help="a new one; timm loads it as local-dir:DIRECTORY")
    add(
        "--format",
        choices=("timm", "onnx"),
        default="timm",
        help="onnx: model.onnx (any number of normalised images to logits, checked in onnxruntime) and model.json; "
        "takes a minute where Sinkhorn-Knopp is unrolled. --connection, --img-size and --crop-pct are for onnx; "
        "--push, --private and --examples are for timm",
    )
    add(
        "--push",
        metavar="OWNER/NAME",
        help="upload the directory to the Hugging Face Hub, too: timm loads it as hf-hub:OWNER/NAME. A repository that "
        "is there is updated. Needs a token: hf auth login, or HF_TOKEN",
    )
    add("--private", action="store_true", help="with --push: a new repository is private")
    add(
        "--examples",
        nargs="+",
        type=Path,
        default=[],
        metavar="IMAGE",
        help="images that the model card shows with the model's answers; copied as they are, to be seen by all who see "
        "the model",
    )
    add_model_options(made)
    return made


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together or cannot work, before anything is loaded."""
    if arguments.private and arguments.push is None:
        raise ValueError("private: got it without --push, expected a repository; add --push OWNER/NAME")
    if arguments.format == "onnx":
        for name in ("push", "examples"):
            if value := getattr(arguments, name):
                raise ValueError(f"{name}: got {value!r} with --format onnx, expected it for timm's format only")
        return
    for name in ("connection", "img_size", "crop_pct"):
        if (value := getattr(arguments, name)) is not None:
            raise ValueError(f"{name}: got {value!r}, expected none without --format onnx; a checkpoint has its own")
    if arguments.push is not None:
        _check_push(arguments.push)


def _check_push(repository: str) -> None:
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        reason = "" if "/" in repository else "the owner is missing"
    except HFValidationError as error:
        reason = str(error)
    if reason:
        raise ValueError(f"push: got {repository!r}, expected OWNER/NAME: {reason}")
    if get_token() is None:
        raise ValueError(
            f"push: got {repository} without a token of the Hugging Face Hub; log in with `hf auth login`, or set "
            "HF_TOKEN"
        )


def _export_timm(arguments: argparse.Namespace) -> None:
    from mhc_vision.inference.export_timm import export_checkpoint
    from mhc_vision.inference.push_to_hub import HubUnreachable, push_to_hub

    directory, repository = arguments.directory, arguments.push
    export_checkpoint(
        Path(arguments.model), directory, arguments.weights, repository=repository, examples=arguments.examples
    )
    print(f"exported: {directory}", flush=True)
    if repository is not None:
        try:
            print(f"pushed: {push_to_hub(directory, repository, arguments.private)}")
        except HubUnreachable as error:
            fail(f"error: {error}", status=1)


def _export_onnx(arguments: argparse.Namespace) -> None:
    from mhc_vision.inference.export_onnx import export_onnx

    options = ModelOptions(arguments.connection, arguments.weights, arguments.img_size, arguments.crop_pct)
    check = export_onnx(arguments.model, arguments.directory, options)["check"]
    print(f"onnxruntime gives PyTorch's logits to {check['relative_difference']:.2g} of the largest one")
    print(f"exported: {arguments.directory}")
