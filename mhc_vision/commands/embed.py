"""`mhc-vision embed`: features of image files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.atomic_files import replaced_file
from mhc_vision.checks import check_whole_number
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
from mhc_vision.inference.embedding_files import check_embeddings_file, write_embeddings
from mhc_vision.inference.options import InferenceOptions, ModelOptions


def run(words: Sequence[str]) -> None:
    """Runs `MODEL IMAGES... --out FILE [options]`: writes features; prints what was written and the retrieval.

    Raises:
        SystemExit: With status 2 for bad input and where no file can be read, 130 after an interrupt.
    """
    arguments = parser().parse_args(words)
    try:
        _embed(arguments, words)
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)


def parser() -> argparse.ArgumentParser:
    """Of the words after `embed`."""
    made = CommandParser(
        prog="mhc-vision embed",
        description="Features of images, for search, clustering or classifiers of your own. The model needs no "
        "classes. Files that cannot be read as images are named on stderr and left out.",
    )
    add = made.add_argument
    add_images(made)
    add("--out", type=Path, required=True, metavar="FILE", help="a new file, .npz or .parquet")
    add(
        "--features",
        choices=("head", "cls", "mean", "patches"),
        default="head",
        help="what the model's head pools, the class token, the mean of the patch tokens, or their map",
    )
    add(
        "--retrieval",
        action="store_true",
        help="how often the 1, 5 and 20 nearest images vote for the right class; IMAGES is one folder of class folders",
    )
    add("--picture", type=Path, metavar="FILE.png", help="a new file: principal components of the patches as colours")
    add("--num-pictured", type=int, default=4, metavar="N", help="images in the picture, at most 8; default: 4")
    add("--attention", action="store_true", help="also where the class token attends to in the last block")
    add("--force", action="store_true", help="overwrite the files")
    add_model_options(made)
    add_inference_options(made)
    return made


def _embed(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    _check_files(arguments)
    check_model(arguments.model)
    check_there("images", arguments.images, "files or folders")
    from mhc_vision.inference.embed import embed_files

    if arguments.picture is not None:
        from mhc_vision.inference.pca_picture import pca_picture
        from mhc_vision.report.figures import new_figure

        # without matplotlib all features would be in vain
        new_figure(1.0, 1.0)
    made = embed_files(
        arguments.model,
        arguments.images,
        ModelOptions(arguments.connection, arguments.weights, arguments.img_size, arguments.crop_pct),
        InferenceOptions(arguments.batch_size, arguments.num_workers, arguments.device, arguments.precision),
        arguments.features,
        arguments.exif_orientation,
        arguments.retrieval,
        0 if arguments.picture is None else arguments.num_pictured,
        arguments.attention,
    )
    made.record["command"] = ["mhc-vision", "embed", *words]
    write_embeddings(arguments.out, made)
    account_of_files(len(made.images), made.record["num_files"], made.record["unreadable"])
    if retrieval := made.record["retrieval"]:
        for k, accuracy in retrieval["top1"].items():
            print(f"retrieval, {k} nearest: top1 {100 * accuracy:.2f} %")
        print(
            f"retrieval: {retrieval['num_images']:,} images of {retrieval['num_classes']:,} classes, each left out once"
        )
    print(f"embeddings: {arguments.out}, {' x '.join(map(str, made.features.shape))}")
    if made.pictured is not None:
        title = f"{made.record['architecture']}\n{made.record['connection'] or 'plain'}"
        maps = {} if made.pictured.attention is None else {title: made.pictured.attention}
        figure = pca_picture({title: made.pictured.patches}, made.pictured.images, maps)
        with replaced_file(arguments.picture) as temporary:
            figure.savefig(temporary, dpi=160)
        print(f"picture: {arguments.picture}")


def _check_files(arguments: argparse.Namespace) -> None:
    check_embeddings_file(arguments.out)
    for name in ("out", "picture"):
        if (path := getattr(arguments, name)) is not None:
            check_new_file(path, name, arguments.force)
    if arguments.picture is None and arguments.attention:
        raise ValueError("attention: got it without --picture, expected a picture to show it in")
    if arguments.picture is not None:
        check_whole_number("num_pictured", arguments.num_pictured, at_least=1)
    if arguments.picture is not None and arguments.picture.suffix != ".png":
        raise ValueError(f"picture: got {arguments.picture}, expected a name that ends in .png")
