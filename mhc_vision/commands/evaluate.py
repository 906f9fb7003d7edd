"""`mhc-vision evaluate`: how accurate a model is on a folder of images."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mhc_vision.analysis.tables import markdown_table
from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.layers import CONNECTIONS
from mhc_vision.training.evaluate import EvaluationOptions
from mhc_vision.training.evaluate_folder import ModelOptions, evaluate_folder
from mhc_vision.training.messages import fail


def run(words: Sequence[str]) -> None:
    """Runs `MODEL FOLDER [options]`: prints a table, and writes the figures as JSON where asked.

    Raises:
        SystemExit: With status 2 for bad input, 130 after an interrupt.
    """
    arguments = _parser().parse_args(words)
    try:
        if arguments.json is not None:
            _check_writable(arguments.json)
        record = evaluate_folder(
            arguments.model,
            arguments.folder,
            ModelOptions(arguments.connection, arguments.weights, arguments.img_size, arguments.crop_pct),
            EvaluationOptions(
                arguments.batch_size, arguments.num_workers, arguments.device, arguments.precision, arguments.broken
            ),
            arguments.real_labels,
        )
    except ValueError as error:
        fail(f"error: {error}", status=2)
    except KeyboardInterrupt:
        fail("interrupted", status=130)
    print(_report(record))
    if arguments.json is not None:
        record["command"] = ["mhc-vision", "evaluate", *words]
        replace_text(arguments.json, json_text(record, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mhc-vision evaluate", description="Accuracy of a model on a folder of images, each of which counts once."
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a checkpoint of mhc-vision train, a directory of mhc-vision export, or a timm model (NAME[.TAG], "
        "hf-hub:..., local-dir:...), plain or hyper-connected",
    )
    add("folder", metavar="FOLDER", type=Path, help="FOLDER/<class>/*, or with such a val/ or test/ in it")
    add("--connection", choices=CONNECTIONS, help="of a plain timm name")
    add("--weights", choices=("default", "raw"), default="default", help="raw: not the average of EMA")
    add("--img-size", type=int, metavar="PIXELS", help="in place of the model's own")
    add("--crop-pct", type=float, metavar="PART", help="in place of the model's own")
    add("--real-labels", metavar="JSON", help="ReaL's real.json, or 'timm' for the copy that timm ships")
    add("--batch-size", type=int, default=EvaluationOptions.batch_size)
    add("--num-workers", type=int, default=EvaluationOptions.num_workers, help="processes that load images")
    add("--device", default=EvaluationOptions.device, help="auto (a GPU where there is one), cpu, cuda:1, ...")
    add("--precision", choices=("32", "bf16"), default=EvaluationOptions.precision)
    add("--broken", choices=("raise", "skip"), default=EvaluationOptions.broken, help="images that cannot be decoded")
    add("--json", type=Path, metavar="FILE", help="where to write the figures, too")
    return parser


def _check_writable(path: Path) -> None:
    """Before the work: a result that cannot be kept is worth little."""
    if path.is_dir():
        raise ValueError(f"json: {path} is a directory, expected a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"json: {path} cannot be written: {parent} is no directory that one may write to")


def _report(record: dict[str, Any]) -> str:
    """What was evaluated on what, a table of the figures, and the images that were left out."""
    metrics, settings = record["metrics"], record["settings"]
    figures = {"images": f"{record['num_images']:,}"}
    figures |= {f"{name} (%)": f"{100 * metrics[name]:.2f}" for name in ("top1", "top5") if name in metrics}
    if "loss" in metrics:
        figures["cross-entropy"] = f"{metrics['loss']:.4f}"
    if record["num_real_images"]:
        figures["images with ReaL labels"] = f"{record['num_real_images']:,}"
        figures["ReaL top1 (%)"] = f"{100 * metrics['real_top1']:.2f}"
    if settings["broken"] == "skip":
        figures["broken images, left out"] = f"{len(record['broken']):,}"
    figures["images/s"] = f"{record['images_per_s']:,.1f}"
    lines = [
        f"model: {record['source']}, {record['num_classes']} classes",
        f"images: {record['folder']}",
        f"labels: {record['labels'] or 'none but those of ReaL'}",
        "settings: " + ", ".join(f"{name} {_short(value)}" for name, value in settings.items()),
        "",
        markdown_table([{"figure": name, "value": value} for name, value in figures.items()]),
        *record["broken"],
    ]
    return "\n".join(lines).rstrip()


def _short(value: object) -> str:
    return "/".join(f"{entry:g}" for entry in value) if isinstance(value, tuple) else str(value)
