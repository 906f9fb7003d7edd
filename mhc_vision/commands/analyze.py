"""`mhc-vision analyze`: what the connections of a model do with some images."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.analysis.options import RANDOM, AnalysisOptions
from mhc_vision.atomic_files import check_new_directory
from mhc_vision.command_line.catalog import catalog
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.named_paths import check_model, check_there
from mhc_vision.commands.arguments import CommandParser


def run(words: Sequence[str]) -> None:
    """Runs `MODEL --out DIRECTORY [options]`: writes figures, numbers and a page, and prints the main figures.

    Raises:
        SystemExit: With status 2 for bad input.
    """
    arguments = parser().parse_args(words)
    options = AnalysisOptions(
        arguments.connection, arguments.weights, arguments.num_images, arguments.batch_size, arguments.device
    )
    try:
        check_model(arguments.model)
        check_new_directory(arguments.out, "out")
        if arguments.data not in (None, RANDOM):
            check_there("data", [Path(arguments.data)], "a folder of images, or random")
        from mhc_vision.analysis.analysis_report import write_analysis
        from mhc_vision.analysis.analyze_model import analyze_model
        from mhc_vision.analysis.summary_table import summary_rows
        from mhc_vision.report.figures import new_figure
        from mhc_vision.report.markdown import markdown_table

        # without matplotlib all measuring would be in vain
        new_figure(1.0, 1.0)
        record = analyze_model(arguments.model, arguments.data, options)
        record["command"] = ["mhc-vision", "analyze", *words]
        report = write_analysis(record, arguments.out)
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)
    print(markdown_table(summary_rows(record)))
    print(f"report: {report}")


def parser() -> argparse.ArgumentParser:
    """Of the words after `analyze`."""
    made = CommandParser(
        prog="mhc-vision analyze",
        description="Gains, maps, unfolded connections, branch inputs, streams and coefficients of a model.",
    )
    add = made.add_argument
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
    add("--connection", choices=tuple(catalog().connections), help="of a plain timm name")
    add(
        "--weights",
        choices=("default", "raw", "initial"),
        default="default",
        help="raw: of a checkpoint, not the average of EMA; initial: of a timm name, before any training",
    )
    add("--num-images", type=int, default=AnalysisOptions.num_images)
    add("--batch-size", type=int, default=AnalysisOptions.batch_size, help="images at once: memory and time")
    add("--device", default=AnalysisOptions.device, help="auto (a GPU where there is one), cpu, cuda:1, ...")
    return made
