"""`mhc-vision train`: trains on any configured dataset, and writes a report when a training has come to its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mhc_vision.checks import nearest
from mhc_vision.command_line.given_settings import given_settings
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.option_names import SUBCOMMANDS, check_option_names
from mhc_vision.command_line.recipes import with_config_paths
from mhc_vision.run_directory import SUMMARY
from mhc_vision.termination import exit_status
from mhc_vision.yaml_files import safe_load

if TYPE_CHECKING:
    from mhc_vision.training.cli import TrainCLI

HELP = """usage: mhc-vision train [fit | validate | test] --config RECIPE [--config OVERLAY ...] [--OPTION VALUE ...]

Train a vision transformer, plain or with connections, and write a report. `fit` may be left out.

what to train
  --config RECIPE               a YAML file, or a recipe by name: mhc-vision list recipes
  --config connections/mhc      the same recipe with connections: shc, dhc, mhc, baseline
  --data.root DIR               where the images are: DIR/train/<class>/*, DIR/val/<class>/*
  --model.name NAME             architecture, such as vit_small_patch16_224: mhc-vision list models
  --model.num_streams N         streams of the connections, 1 to 8

how
  --trainer.max_epochs N        length
  --model.lr RATE               peak learning rate
  --data.total_batch_size N     images of an optimiser step, whatever the number of GPUs
  --data.num_workers N          processes that load images
  --trainer.devices N           GPUs; --trainer.precision bf16-mixed for mixed precision
  --seed_everything N           weights and augmentation

where to
  --trainer.default_root_dir DIR   the run: checkpoints, metrics.jsonl, summary.json, report.html
  --ckpt_path last                 go on where the run was stopped
  --overwrite true                 replace the run that is there

examples
  mhc-vision train --config digits --config connections/mhc --trainer.default_root_dir runs/digits-mhc
  mhc-vision train --config imagenet/vit_small_patch16_224_better_plain --data.root IMAGENET
  mhc-vision train test --config runs/digits-mhc/config.yaml --ckpt_path last

all options: mhc-vision train fit --help
a recipe's:  mhc-vision show digits"""


def run(words: Sequence[str]) -> None:
    """Runs `[fit | validate | test] [options]`; `fit` may be left out.

    A finished training leaves `report.md` and `figures/` in its run directory; `--trainer.fast_dev_run` leaves nothing.

    Raises:
        SystemExit: With status 2 for bad input, 1 for a run that has diverged, 130 or 143 where Ctrl-C or SIGTERM
            stopped it.
    """
    words = checked_words("train", words, HELP)
    from mhc_vision.training.cli import TrainCLI

    run_cli(TrainCLI, words)


def checked_words(command: str, words: Sequence[str], help_text: str) -> list[str]:
    """The words of `train` or `finetune` with their subcommand; names of files and options are looked up.

    Raises:
        SystemExit: With status 0 after the help, 2 for a mistake.
    """
    words = list(words)
    if words[:1] in (["-h"], ["--help"]):
        print(help_text)
        raise SystemExit(0)
    if words and not words[0].startswith("-") and words[0] not in SUBCOMMANDS:
        hint = nearest(words[0], SUBCOMMANDS)
        fail(f"error: subcommand: got {words[0]!r}, expected one of {', '.join(SUBCOMMANDS)}{hint}", status=2)
    if not words or words[0].startswith("-"):
        words.insert(0, "fit")
    try:
        check_option_names(command, given_settings(with_config_paths(words), safe_load))
    except ValueError as error:
        fail(f"error: {error}", status=2)
    return words


def run_cli(cli_class: "type[TrainCLI]", words: Sequence[str]) -> "TrainCLI":
    """Runs a checked command line of `TrainCLI` or one like it, as `run` does; returns what has run."""
    from mhc_vision.training.callbacks.divergence import TrainingDiverged
    from mhc_vision.training.callbacks.interrupt import TrainingInterrupted

    try:
        return _train(cli_class, words)
    except TrainingDiverged as diverged:
        fail(f"error: {diverged}", status=1)
    except TrainingInterrupted as interrupt:
        fail(str(interrupt), status=exit_status(interrupt.signum))


def _train(cli_class: "type[TrainCLI]", words: Sequence[str]) -> "TrainCLI":
    from mhc_vision.report.run_report import write_run_report

    cli = cli_class(words)
    if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        return cli
    # without a logger there are no records to report on
    if words[0] == "fit" and cli.trainer.loggers and cli.trainer.is_global_zero:
        run_dir = Path(cli.trainer.default_root_dir)
        if (run_dir / SUMMARY).exists():
            print(f"report: {write_run_report(run_dir)}")
        else:
            # killed between its last checkpoint and its summary
            print(f"no step was left to take, and {run_dir} has no summary.json; start over with --overwrite true")
    return cli
