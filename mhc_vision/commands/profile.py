"""`mhc-vision profile`: what a model costs on this machine, plain beside connected."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mhc_vision.atomic_files import check_writable, json_text, replace_text
from mhc_vision.command_line.catalog import catalog
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.named_paths import check_model
from mhc_vision.commands.arguments import CommandParser


def run(words: Sequence[str]) -> None:
    """Runs `MODEL [options]`: prints the machine, how the model runs there and two tables; `--out` has the figures.

    Raises:
        SystemExit: With status 2 for bad input.
    """
    arguments = parser().parse_args(words)
    try:
        _profile(arguments, words)
    except (ValueError, ImportError) as error:
        fail(f"error: {error}", status=2)


def parser() -> argparse.ArgumentParser:
    """Of the words after `profile`."""
    made = CommandParser(
        prog="mhc-vision profile",
        description="Parameters, multiply-accumulates, memory and time of a model, plain beside connected. The two "
        "take turns, so that what else the machine does slows both. Weights are those before any training.",
    )
    add = made.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a timm name, a checkpoint of mhc-vision train, a directory of mhc-vision export, or hf-hub:...; plain or "
        "hyper-connected",
    )
    add(
        "--connection",
        choices=(*catalog().connections, *catalog().designs),
        help="of a plain model's twin: shc, dhc, mhc (the default) or a residual design",
    )
    add("--num-streams", type=int, metavar="N", help="of a plain model's twin; default: 4")
    add("--batch-sizes", nargs="+", type=int, default=[1, 8, 32], metavar="N", help="default: 1 8 32")
    add("--img-size", type=int, metavar="PIXELS", help="in place of the model's own")
    add("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda:1, ...")
    add("--precision", choices=("32", "bf16"), default="32", help="bf16: weights in fp32, under autocast")
    add("--train", action="store_true", help="training steps (forward, backward, AdamW) in place of forward passes")
    add("--compile", action="store_true", help="compile both models")
    add("--seconds", type=float, default=2.0, help="to time each model for, at each batch size; default: 2")
    add("--out", type=Path, metavar="FILE.json", help="write the figures here, too")
    return made


def _profile(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    if arguments.out is not None:
        check_writable(arguments.out, "out")
    check_model(arguments.model)
    # the profiler would tell stderr that it starts and stops
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")

    from mhc_vision.inference.profile_model import cost_table, profile_model, time_table

    record = profile_model(
        arguments.model,
        connection=arguments.connection,
        num_streams=arguments.num_streams,
        batch_sizes=arguments.batch_sizes,
        img_size=arguments.img_size,
        device=arguments.device,
        precision=arguments.precision,
        train=arguments.train,
        compiled=arguments.compile,
        seconds=arguments.seconds,
    )
    record["command"] = ["mhc-vision", "profile", *words]
    machine, settings = record["machine"], record["settings"]
    print(
        f"{record['model']} on {machine['device']} ({machine['cpu']}, {machine['threads']} threads): "
        f"{settings['mode']}, {settings['img_size']} px, precision {settings['precision']}, "
        + ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    )
    print(record["path"])
    print(f"\n{cost_table(record)}")
    if record["rows"]:
        print(time_table(record))
        print("memory: most that PyTorch held at one time, weights included and images not")
    if arguments.out is not None:
        replace_text(arguments.out, json_text(record, indent=2) + "\n")
        print(f"figures: {arguments.out}")
    if record["out_of_memory"] is not None:
        fail(f"error: batch_sizes: got {record['out_of_memory']}, which does not fit on the GPU", status=2)
