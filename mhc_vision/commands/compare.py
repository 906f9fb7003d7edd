"""`mhc-vision compare`: the runs of a matrix, and a report of them."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.recipes import config_path
from mhc_vision.commands.arguments import CommandParser
from mhc_vision.termination import exit_status
from mhc_vision.yaml_files import parse_yaml


def run(words: Sequence[str]) -> None:
    """Runs `MATRIX --out DIR [--jobs N] [--set KEY=VALUE ...] [--report-only]`.

    Raises:
        SystemExit: With status 2 for bad input, 1 if a run failed, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = parser().parse_args(words)
    if sys.platform == "win32":
        fail("error: compare locks files and signals processes as only Unix can; run it there", status=2)
    command = shlex.join(["mhc-vision", "compare", *(word for word in words if word != "--report-only")])
    try:
        arguments.matrix = Path(config_path(arguments.matrix, "matrix"))
        num_failed = _compare(arguments, command)
    except ValueError as error:
        fail(f"error: {error}", status=2)
    if num_failed:
        fail(f"{num_failed} runs failed: see the report; the same command tries them again", status=1)


def parser() -> argparse.ArgumentParser:
    """Of the words after `compare`."""
    made = CommandParser(
        prog="mhc-vision compare",
        description="Run a matrix of trainings or fine-tunings, several at a time, and report on them. "
        "The same command goes on where it was stopped.",
    )
    made.add_argument("matrix", help="YAML file, or one of the recipes compare/*, such as compare/digits")
    made.add_argument("--out", type=Path, required=True, help="directory of the runs and of the report")
    made.add_argument("--jobs", type=int, help="runs at a time; default: one on each GPU, or as the cores allow")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="option of all runs, such as data.root=DIR"
    )
    made.add_argument("--report-only", action="store_true", help="run nothing, report on runs that have all ended")
    return made


def _compare(arguments: argparse.Namespace, command: str) -> int:
    """Number of failed runs."""
    from mhc_vision.comparison.plan.equal_time import with_equal_time
    from mhc_vision.comparison.plan.matrix import load_matrix
    from mhc_vision.comparison.report.write import write_report
    from mhc_vision.comparison.run.directory import ComparisonDirectory
    from mhc_vision.comparison.run.progress import Progress
    from mhc_vision.comparison.run.runner import ComparisonInterrupted, Runner
    from mhc_vision.comparison.run.slots import describe, find_slots
    from mhc_vision.comparison.run.step_times import measure_step_times, read_step_times
    from mhc_vision.progress import note

    matrix = load_matrix(arguments.matrix, _options(arguments.set))
    directory = ComparisonDirectory(arguments.out)
    directory.check(matrix)
    if not arguments.report_only:
        slots = find_slots(matrix.threads, matrix.gpus, arguments.jobs)
        print(f"{matrix.name}: {describe(slots, matrix.threads)}", flush=True)
        measure_step_times(matrix, directory, slots[0])
    times = read_step_times(matrix, directory)
    matrix = with_equal_time(matrix, times)
    if arguments.report_only:
        directory.check(matrix)
    else:
        try:
            Runner(directory, slots, Progress()).run(matrix)
        except ComparisonInterrupted as interrupt:
            finished = sum(directory.is_finished(cell) for cell in matrix.cells)
            said = f"interrupted: {finished} of {len(matrix.cells)} runs finished; go on with {command}"
            fail(said, status=exit_status(interrupt.signum))
    note("writing the report")
    print(f"report: {write_report(matrix, directory, command, times)}")
    return sum(directory.failure(cell) is not None for cell in matrix.cells)


def _options(assignments: Sequence[str]) -> dict[str, Any]:
    options = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise ValueError(f"--set: got {assignment!r}, expected KEY=VALUE, such as data.root=DIR")
        options[key] = parse_yaml(value, f"--set {key}")
    return options
