"""`mhc-vision predict`: what a model says of image files."""

import argparse
import csv
import io
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.named_paths import check_model, check_there
from mhc_vision.commands.arguments import (
    CommandParser,
    account_of_files,
    add_images,
    add_inference_options,
    add_model_options,
    check_new_file,
)
from mhc_vision.inference.options import InferenceOptions, ModelOptions

_SIGMOID = "mhc-vision: the model was trained with a sigmoid for each class: probabilities do not sum to 1"


def run(words: Sequence[str]) -> None:
    """Runs `MODEL IMAGES... [options]`: prints or writes the most probable classes; what else it says is on stderr.

    Raises:
        SystemExit: With status 2 for bad input and where no file can be read, 130 after an interrupt.
    """
    arguments = parser().parse_args(words)
    try:
        if arguments.out is not None:
            check_new_file(arguments.out, "out", arguments.force)
        elif arguments.force:
            raise ValueError("force: got it without --out, expected a file to overwrite")
        check_model(arguments.model)
        check_there("images", arguments.images, "files or folders")
        from mhc_vision.inference.predict import predict_files

        record = predict_files(
            arguments.model,
            arguments.images,
            ModelOptions(arguments.connection, arguments.weights, arguments.img_size, arguments.crop_pct),
            InferenceOptions(arguments.batch_size, arguments.num_workers, arguments.device, arguments.precision),
            arguments.top_k,
            arguments.exif_orientation,
            arguments.masks,
            arguments.overlays,
        )
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)
    record["command"] = ["mhc-vision", "predict", *words]
    text = json_text(record, indent=2) + "\n" if arguments.format == "json" else csv_text(record)
    if arguments.out is not None:
        replace_text(arguments.out, text)
    said = [_SIGMOID] if record["probabilities"] == "sigmoid" else []
    account_of_files(len(record["images"]), record["num_files"], record["unreadable"], *said)
    if arguments.out is None:
        _print(text)
    else:
        print(f"predictions: {arguments.out}")


def csv_text(record: dict[str, Any]) -> str:
    """CSV of what `predict_files` gives: a line per image with `image`, `class_1`, `probability_1`, `class_2`, ...

    Of segmentation, `image` and `mask`.
    """
    images = record["images"]
    if "mask" in images[0]:
        rows = [["image", "mask"], *([image["image"], image["mask"]] for image in images)]
    else:
        columns = [(f"class_{rank + 1}", f"probability_{rank + 1}") for rank in range(len(images[0]["predictions"]))]
        rows = [["image", *itertools.chain(*columns)]]
        for image in images:
            values = [(entry["class"], entry["probability"]) for entry in image["predictions"]]
            rows.append([image["image"], *itertools.chain(*values)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    # file names may hold bytes that are no text
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def parser() -> argparse.ArgumentParser:
    """Of the words after `predict`."""
    made = CommandParser(
        prog="mhc-vision predict",
        description="The most probable classes of images, as CSV or JSON. Files that cannot be read as images are "
        "named on stderr and left out.",
    )
    add = made.add_argument
    add_images(made)
    add("--top-k", type=int, default=5, metavar="K", help="classes per image, at most all")
    add(
        "--masks",
        type=Path,
        metavar="DIR",
        help="of a segmentation model: a new folder for the masks, PNG files; reads images one by one",
    )
    add("--overlays", action="store_true", help="put pictures of the images under their masks there, too")
    add("--format", choices=("csv", "json"), default="csv", help="json has indices, settings and versions, too")
    add("--out", type=Path, metavar="FILE", help="a new file, in place of stdout")
    add("--force", action="store_true", help="overwrite FILE")
    add_model_options(made)
    add_inference_options(made)
    return made


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # `| head` has read enough; at its end Python flushes once more, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
