"""`mhc-vision train`: LightningCLI, and a report when a training has come to its end."""

from collections.abc import Sequence
from pathlib import Path

from mhc_vision.checks import nearest
from mhc_vision.report.run_report import write_run_report
from mhc_vision.run_directory import SUMMARY
from mhc_vision.termination import exit_status
from mhc_vision.training.callbacks.divergence import TrainingDiverged
from mhc_vision.training.callbacks.interrupt import TrainingInterrupted
from mhc_vision.training.cli import SUBCOMMANDS, TrainCLI
from mhc_vision.training.messages import fail


def run(words: Sequence[str]) -> None:
    """Runs `[fit | validate | test] [options]`; `fit` may be left out.

    A finished training leaves `report.md` and `figures/` in its run directory; `--trainer.fast_dev_run` leaves nothing.

    Raises:
        SystemExit: With status 2 for bad input, 1 for a run that has diverged, 130 or 143 where Ctrl-C or SIGTERM
            stopped it.
    """
    run_cli(TrainCLI, words)


def run_cli(cli_class: type[TrainCLI], words: Sequence[str]) -> None:
    """Runs a command line of `TrainCLI` or one like it, as `run` does."""
    words = list(words)
    if words and not words[0].startswith("-") and words[0] not in SUBCOMMANDS:
        hint = nearest(words[0], SUBCOMMANDS)
        fail(f"error: subcommand: got {words[0]!r}, expected one of {', '.join(SUBCOMMANDS)}{hint}", status=2)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "fit")
    try:
        _train(cli_class, words)
    except TrainingDiverged as diverged:
        fail(f"error: {diverged}", status=1)
    except TrainingInterrupted as interrupt:
        fail(str(interrupt), status=exit_status(interrupt.signum))


def _train(cli_class: type[TrainCLI], words: Sequence[str]) -> None:
    cli = cli_class(words)
    if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    # without a logger there are no records to report on
    if words[0] == "fit" and cli.trainer.loggers and cli.trainer.is_global_zero:
        run_dir = Path(cli.trainer.default_root_dir)
        if (run_dir / SUMMARY).exists():
            print(f"report: {write_run_report(run_dir)}")
        else:
            # killed between its last checkpoint and its summary
            print(f"no step was left to take, and {run_dir} has no summary.json; start over with --overwrite true")
