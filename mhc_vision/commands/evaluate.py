"""`mhc-vision evaluate`: how accurate a model is on a folder of images."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import check_new_directory, check_writable, json_text, replace_text
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.named_paths import check_model, check_there
from mhc_vision.commands.arguments import MODEL, CommandParser, add_inference_options, add_model_options
from mhc_vision.inference.options import EvaluationOptions, ModelOptions
from mhc_vision.report.markdown import markdown_table
from mhc_vision.run_directory import REPORT


def run(words: Sequence[str]) -> None:
    """Runs `MODEL FOLDER [options]`: prints a table, and writes the figures as JSON where asked.

    Raises:
        SystemExit: With status 2 for bad input.
    """
    arguments = parser().parse_args(words)
    try:
        if arguments.json is not None:
            check_writable(arguments.json, "json")
        if arguments.report is not None:
            check_new_directory(arguments.report, "report")
        check_model(arguments.model)
        check_there("folder", [arguments.folder], "FOLDER/<class>/*")
        from mhc_vision.inference.evaluate_folder import evaluate_folder

        record = evaluate_folder(
            arguments.model,
            arguments.folder,
            ModelOptions(arguments.connection, arguments.weights, arguments.img_size, arguments.crop_pct),
            EvaluationOptions(
                arguments.batch_size, arguments.num_workers, arguments.device, arguments.precision, arguments.broken
            ),
            arguments.real_labels,
            arguments.report,
        )
    except ValueError as error:
        fail(f"error: {error}", status=2)
    print(_report(record))
    if arguments.json is not None:
        record["command"] = ["mhc-vision", "evaluate", *words]
        replace_text(arguments.json, json_text(record, indent=2) + "\n")
    if arguments.report is not None:
        print(f"report: {arguments.report / REPORT}")


def parser() -> argparse.ArgumentParser:
    """Of the words after `evaluate`."""
    made = CommandParser(
        prog="mhc-vision evaluate", description="Accuracy of a model on a folder of images, each of which counts once."
    )
    add = made.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("folder", metavar="FOLDER", type=Path, help="FOLDER/<class>/*, or with such a val/ or test/ in it")
    add("--real-labels", metavar="JSON", help="ReaL's real.json, or 'timm' for the copy that timm ships")
    add("--broken", choices=("raise", "skip"), default=EvaluationOptions.broken, help="images that cannot be decoded")
    add("--json", type=Path, metavar="FILE", help="where to write the figures, too")
    add(
        "--report",
        type=Path,
        metavar="DIRECTORY",
        help="a new directory, for a report: accuracy of each class, confusions, most confident mistakes",
    )
    add_model_options(made)
    add_inference_options(made)
    return made


def _report(record: dict[str, Any]) -> str:
    """What was evaluated on what, a table of the figures, and the images that were left out."""
    from mhc_vision.inference.evaluation_report import evaluation_rows

    settings = record["settings"]
    lines = [
        f"model: {record['source']}, {record['num_classes']} classes",
        f"images: {record['folder']}",
        f"labels: {record['labels'] or 'none but those of ReaL'}",
        "settings: " + ", ".join(f"{name} {_short(value)}" for name, value in settings.items()),
        "",
        markdown_table(evaluation_rows(record)),
        *record["broken"],
    ]
    return "\n".join(lines).rstrip()


def _short(value: object) -> str:
    return "/".join(f"{entry:g}" for entry in value) if isinstance(value, tuple) else str(value)
