"""The records of a comparison in one small JSON file, and back: to publish them, or to go on on another machine.

    python benchmarks/study_records.py pack runs/verdict benchmarks/results/verdict.json
    python benchmarks/study_records.py unpack benchmarks/results/verdict.json runs/verdict
    mhc-vision compare compare/verdict --out runs/verdict --set data.root=CIFAR10     # goes on, or reports

Packed are what each finished run is, its summary and its log without the figures of single branches; checkpoints and
what runs printed are left out. After unpacking, `compare` takes these runs for finished and runs the others.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.comparison.run.directory import CELL, FAILURE, MATRIX
from mhc_vision.comparison.run.step_times import STEP_TIMES
from mhc_vision.json_files import read_json_object
from mhc_vision.run_directory import METRICS_LOG, SUMMARY

OF_A_BRANCH = re.compile(r".*/\d\d")


def pack(directory: Path) -> dict[str, Any]:
    """The records of the finished runs in the directory of a comparison."""
    record: dict[str, Any] = {MATRIX: read_json_object("directory", directory / MATRIX)}
    if (directory / STEP_TIMES).is_file():
        record[STEP_TIMES] = read_json_object("directory", directory / STEP_TIMES)
    record["runs"] = {
        run.relative_to(directory).as_posix(): {
            CELL: read_json_object("directory", run / CELL),
            SUMMARY: read_json_object("directory", run / SUMMARY),
            METRICS_LOG: list(_log(run / METRICS_LOG)),
        }
        for run in sorted(path.parent for path in directory.glob(f"*/*/*/{CELL}"))
        if (run / SUMMARY).is_file() and not (run / FAILURE).is_file()
    }
    return record


def unpack(record: dict[str, Any], directory: Path) -> None:
    """Writes the records that `pack` has made into a new directory.

    Raises:
        ValueError: There is something in the directory, or the name of a run is no path below it.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"directory: got {directory}, which is not empty, expected a new one")
    for name in record["runs"]:
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*){2}", name):
            raise ValueError(f"runs: got the name {name!r}, expected task/arm/seed0")
    for name, run in record["runs"].items():
        folder = directory / name
        folder.mkdir(parents=True)
        replace_text(folder / CELL, json_text(run[CELL], indent=2) + "\n")
        replace_text(folder / METRICS_LOG, "".join(json_text(line) + "\n" for line in run[METRICS_LOG]))
        # last: with it, the run is finished
        replace_text(folder / SUMMARY, json_text(run[SUMMARY], indent=2) + "\n")
    for name in (STEP_TIMES, MATRIX):
        if name in record:
            replace_text(directory / name, json_text(record[name], indent=2) + "\n")


def _log(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield {key: _short(value) for key, value in json.loads(line).items() if not OF_A_BRANCH.fullmatch(key)}


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.action == "unpack":
            unpack(read_json_object("source", arguments.source, ("runs", MATRIX)), arguments.target)
            return
        record = pack(arguments.source)
    except ValueError as error:
        parser.error(str(error))
    # a run per line
    runs = ",\n".join(f"{json.dumps(name)}: {json_text(run)}" for name, run in record.pop("runs").items())
    head = json_text(record)[:-1]
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    replace_text(arguments.target, f'{head},\n"runs": {{\n{runs}\n}}}}\n')


if __name__ == "__main__":
    main()
