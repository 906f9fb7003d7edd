"""Step times of a comparison with arms at equal time: measured once, before its runs, and kept beside them."""

import hashlib
import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.comparison.plan.equal_time import StepTime, run_length, time_arm
from mhc_vision.comparison.plan.matrix import Cell, Matrix
from mhc_vision.comparison.run import child
from mhc_vision.comparison.run.directory import ComparisonDirectory
from mhc_vision.comparison.run.slots import Slot
from mhc_vision.json_files import read_json_object
from mhc_vision.progress import note

STEP_TIMES = "step_times.json"
_LOG = "step_times.log"
_ERROR = "mhc-vision: error:"

StepTimes = Mapping[str, Mapping[str, StepTime]]
"""By task and arm; the baseline, which they are measured beside, is no key."""


def measure_step_times(matrix: Matrix, directory: ComparisonDirectory, slot: Slot) -> None:
    """Measures what `step_times.json` of a directory lacks; what is there stays, so that the runs stay the same.

    Of each task with an arm at equal time all arms are measured, in one process with the threads of a run, while
    nothing else of the comparison runs.

    Raises:
        ValueError: The directory is of another matrix, others are at work in it, or a run cannot be measured.
    """
    if not matrix.equal_time.arms:
        return
    directory.check(matrix)
    with directory.locked() as lock:
        directory.claim(matrix)
        stored = _stored(directory)
        for task in matrix.tasks:
            cells = _measured_cells(matrix, task)
            missing = {arm for arm in cells if not _is_current(stored, task, cells, arm, matrix.baseline)}
            missing.discard(matrix.baseline)
            if missing:
                wanted = {arm: cell for arm, cell in cells.items() if arm in missing or arm == matrix.baseline}
                stored.setdefault(task, {}).update(_measure(matrix, task, wanted, directory, slot, lock))
                replace_text(directory.path / STEP_TIMES, json_text({"tasks": stored}, indent=2) + "\n")


def read_step_times(matrix: Matrix, directory: ComparisonDirectory) -> StepTimes:
    """What was measured for a matrix; empty for one without arms at equal time.

    Raises:
        ValueError: Something is missing, or was measured with other settings.
    """
    if not matrix.equal_time.arms:
        return {}
    stored = _stored(directory)
    times: dict[str, dict[str, StepTime]] = {}
    for task in matrix.tasks:
        cells = _measured_cells(matrix, task)
        for arm in cells:
            if arm == matrix.baseline:
                continue
            if not _is_current(stored, task, cells, arm, matrix.baseline):
                raise ValueError(
                    f"--out: got {directory.path / STEP_TIMES} without the step time of {task}/{arm} as it is set up "
                    "now, expected all; run the comparison without --report-only"
                )
            record = stored[task][arm]
            times.setdefault(task, {})[arm] = StepTime(**{key: record[key] for key in StepTime.__annotations__})
    return times


def _measured_cells(matrix: Matrix, task: str) -> dict[str, Cell]:
    """By arm, a run of each on a task that has the baseline and an arm at equal time; none on others."""
    cells = {cell.arm: cell for cell in matrix.cells if cell.task == task and cell.seed == matrix.seeds[0]}
    is_measured = matrix.baseline in cells and any(arm in cells for arm in matrix.equal_time.arms)
    return cells if is_measured else {}


def _measure(
    matrix: Matrix,
    task: str,
    cells: Mapping[str, Cell],
    directory: ComparisonDirectory,
    slot: Slot,
    lock: int | None,
) -> dict[str, Any]:
    """Records of the arms beside the baseline, measured in a child process."""
    note(f"measuring a step of {', '.join(cells)} on {task}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / STEP_TIMES
        words = {arm: cell.words(Path(folder))[1:] for arm, cell in cells.items()}
        content = {"command": matrix.command, "baseline": matrix.baseline, "runs": words}
        request = json.dumps({**content, "seconds": matrix.equal_time.seconds, "out": str(out)})
        with open(directory.path / _LOG, "ab") as log:
            begin = log.tell()
            command = [sys.executable, "-m", "mhc_vision.commands.step_times", request]
            process = child.start(command, slot.environment(matrix.threads), log, lock)
            try:
                status = process.wait()
            except BaseException:
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
        if status:
            printed = (directory.path / _LOG).read_bytes()[begin:].decode(errors="replace").strip()
            raise ValueError(f"equal_time: steps on {task} cannot be measured: {_reason(printed) or status}")
        measured = read_json_object("equal_time", out, ("arms",))
    records = {}
    for arm, time in measured.pop("arms").items():
        records[arm] = {**time, **measured, "settings": _settings(cells, arm, matrix.baseline)}
        said = f"{arm}: {time['ratio']:.3f} times the step of {matrix.baseline}"
        if arm in matrix.equal_time.arms:
            steps = run_length(StepTime(**time))["trainer.max_steps"]
            said += f"; {time_arm(matrix.baseline, arm)} takes {steps} steps in place of {time['baseline_steps']}"
        note(said)
    return records


def _reason(printed: str) -> str:
    """The message that ended a process, which may be several lines; of a traceback the last one."""
    _, found, message = printed.rpartition(f"{_ERROR} ")
    return f"{_ERROR} {message}" if found else printed.rpartition("\n")[2]


def _stored(directory: ComparisonDirectory) -> dict[str, dict[str, Any]]:
    path = directory.path / STEP_TIMES
    if not path.is_file():
        return {}
    tasks: dict[str, dict[str, Any]] = read_json_object("--out", path, ("tasks",))["tasks"]
    return tasks


def _is_current(stored: Mapping[str, Any], task: str, cells: Mapping[str, Cell], arm: str, baseline: str) -> bool:
    """Whether an arm has been measured with the settings that it and the baseline have."""
    return stored.get(task, {}).get(arm, {}).get("settings") == _settings(cells, arm, baseline)


def _settings(cells: Mapping[str, Cell], arm: str, baseline: str) -> str:
    """A fingerprint of an arm and the baseline; not of their seed, which may come and go."""
    identities = [{**cells[name].identity(), "seed": None} for name in (arm, baseline)]
    return hashlib.sha256(json.dumps(identities, sort_keys=True).encode()).hexdigest()
