"""`mhc-vision compare`: the runs of a matrix, and a report of them."""

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.recipes import config_path
from mhc_vision.commands.arguments import CommandParser
from mhc_vision.termination import exit_status
from mhc_vision.yaml_files import parse_yaml

if TYPE_CHECKING:
    from mhc_vision.comparison.plan.matrix import Matrix
    from mhc_vision.comparison.run.directory import ComparisonDirectory
    from mhc_vision.comparison.run.job_array import JobArray
    from mhc_vision.comparison.run.runner import Runner


LAUNCHERS = ("local", "slurm", "submitit-local")


def run(words: Sequence[str]) -> None:
    """Runs `MATRIX --out DIR [--launcher NAME] [--jobs N] [--set KEY=VALUE ...] [--report-only]`.

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
    made.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="where runs go: this machine (default), SLURM as jobs, or the same path on this machine, to try it",
    )
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
    from mhc_vision.comparison.run.runner import ComparisonInterrupted
    from mhc_vision.comparison.run.step_times import read_step_times
    from mhc_vision.progress import note

    matrix = load_matrix(arguments.matrix, _options(arguments.set))
    directory = ComparisonDirectory(arguments.out)
    directory.check(matrix)
    if not arguments.report_only:
        runner = (_local_runner if arguments.launcher == "local" else _job_array)(arguments, matrix, directory)
    times = read_step_times(matrix, directory)
    matrix = with_equal_time(matrix, times)
    if arguments.report_only:
        directory.check(matrix)
    else:
        try:
            runner.run(matrix)
        except ComparisonInterrupted as interrupt:
            finished = sum(directory.is_finished(cell) for cell in matrix.cells)
            said = f"interrupted: {finished} of {len(matrix.cells)} runs finished"
            said += f"; {interrupt.left}" if interrupt.left else ""
            fail(f"{said}; go on with {command}", status=exit_status(interrupt.signum))
    note("writing the report")
    print(f"report: {write_report(matrix, directory, command, times)}")
    return sum(directory.failure(cell) is not None for cell in matrix.cells)


def _local_runner(arguments: argparse.Namespace, matrix: "Matrix", directory: "ComparisonDirectory") -> "Runner":
    """What runs a matrix on this machine; step times are measured by now."""
    from mhc_vision.comparison.run.progress import Progress
    from mhc_vision.comparison.run.runner import Runner
    from mhc_vision.comparison.run.slots import describe, find_slots
    from mhc_vision.comparison.run.step_times import measure_step_times

    directory.jobs("local")
    slots = find_slots(matrix.threads, matrix.gpus, arguments.jobs)
    print(f"{matrix.name}: {describe(slots, matrix.threads)}", flush=True)
    measure_step_times(matrix, directory, slots[0])
    return Runner(directory, slots, Progress())


def _job_array(arguments: argparse.Namespace, matrix: "Matrix", directory: "ComparisonDirectory") -> "JobArray":
    """What runs a matrix as jobs; step times are measured by now."""
    if importlib.util.find_spec("submitit") is None:
        raise ValueError(f"--launcher: {arguments.launcher} needs submitit: pip install 'mhc-vision[cluster]'")
    from mhc_vision.comparison.run.job_array import JobArray
    from mhc_vision.comparison.run.progress import Progress
    from mhc_vision.progress import duration

    if arguments.jobs is not None:
        raise ValueError(
            f"--jobs: got {arguments.jobs} with --launcher {arguments.launcher}, expected it left out; "
            f"say in the matrix how many jobs run at a time, such as slurm: {{array_parallelism: {arguments.jobs}}}"
        )
    array = JobArray(directory, matrix, arguments.launcher, Progress())
    print(f"{matrix.name}: jobs of at most {duration(60 * matrix.slurm['time'])} each", flush=True)
    array.measure_step_times(matrix)
    return array


def _options(assignments: Sequence[str]) -> dict[str, Any]:
    options = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise ValueError(f"--set: got {assignment!r}, expected KEY=VALUE, such as data.root=DIR")
        options[key] = parse_yaml(value, f"--set {key}")
    return options
