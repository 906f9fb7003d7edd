"""What the first half hour on a GPU must settle, as one program: correctness first, then where the time goes.

    python benchmarks/first_gpu_run.py                        # on a GPU; goes on where it was cut off
    python benchmarks/first_gpu_run.py --again kernels        # runs a step once more that has its result
    python benchmarks/first_gpu_run.py --dry-run              # every step at a tiny size, without a GPU: two minutes

`gpu_steps.py` lists the steps. Each is a process of its own with a limit. As soon as it ends there is a `STEP.json` in
benchmarks/results/DATE-GPU: status, seconds, versions, command, the rows that it printed, and the end of its output;
`STEP.log` has all of that. A step that fails or takes too long does not stop the next, but for `same-bits`: where
results change from run to run, times say nothing. A tool that is missing is skipped, with the reason. At the end comes
what falls short of `--predictions`, which `roofline.py` has written. The exit status is 1 unless each step passed or
was skipped.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpu_steps import STEPS, Step, json_lines
from measurements import compare, load_records, shortfalls

from mhc_vision.atomic_files import json_text, replace_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PREDICTIONS = "python benchmarks/roofline.py --resources RESOURCES --traffic TRAFFIC --json"
TAIL = 20_000  # characters of output in a record
LEAST_S = 10  # no step begins with less of the budget left
DRY_LIMIT_S = 300  # of a dry run, whatever else the machine does
# what tools print where a machine does not let them work
REFUSED = re.compile(r".*(?:ERR_NVGPUCTRPERM|Failed to initialize the profiler|Device not supported).*")


def results_folder(machine: dict[str, Any]) -> Path:
    """Of today, and of this GPU."""
    device = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    return RESULTS / f"{datetime.now(timezone.utc):%Y-%m-%d}-{device}"


def environment() -> dict[str, str]:
    """Of a step: this checkout comes first, and kernels run where the step says."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"PYTHONPATH": path}


def describe_machine() -> dict[str, Any]:
    """Device and versions, asked for in another process: this one must outlive a GPU that has failed."""
    command = [sys.executable, "benchmarks/device_timing.py"]
    asked = subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=True, timeout=180
    )
    return dict(json.loads(asked.stdout.splitlines()[-1]))


def unavailable(step: Step, dry: bool) -> str | None:
    """Why a step cannot run here."""
    if dry and step.dry:
        return None
    if step.tool and shutil.which(step.tool[0]) is None:
        return f"{step.tool[0]} is not installed"
    return f"{step.name} needs a GPU" if dry else None


def finished(record: Path, step: Step) -> str | None:
    """How a step has ended before, unless it was skipped, or cut short by the budget."""
    if not record.exists():
        return None
    before = json.loads(record.read_text())
    cut_short = before["status"] == "timed out" and before["limit_s"] < step.limit_s
    return None if cut_short or before["status"] == "skipped" else str(before["status"])


def run_step(step: Step, limit_s: float, dry: bool, folder: Path) -> dict[str, Any]:
    """Runs a step; what it leaves behind is killed with it when its time is over."""
    command = [sys.executable, *step.dry] if dry and step.dry else [*step.tool, sys.executable, *step.words]
    shown = " ".join("python" if word == sys.executable else word for word in command)
    record: dict[str, Any] = {"command": shown, "limit_s": round(limit_s), "rows": [], "output": ""}
    reason = unavailable(step, dry)
    if reason is not None:
        return record | {"status": "skipped", "reason": reason, "seconds": 0.0}
    log = folder / f"{step.name}.log"
    began = time.monotonic()
    given = environment() | dict(step.environment)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=given, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_text(errors="replace")
    record |= {"seconds": round(time.monotonic() - began, 1), "output": text[-TAIL:]}
    record |= {"rows": json_lines(text) if dry else step.rows(text)}
    return record | verdict(step, code, text, bool(record["rows"]) or dry)


def verdict(step: Step, code: int | None, text: str, has_rows: bool) -> dict[str, Any]:
    """Status and reason of a step that has ended, or was killed (no code)."""
    if code is None:
        return {"status": "timed out", "reason": "its time was over"}
    refused = REFUSED.search(text) if step.tool and code else None
    if refused:
        return {"status": "skipped", "reason": refused[0].strip()}
    if code:
        return {"status": "failed", "reason": f"exit status {code}"}
    if step.words[0].startswith("benchmarks/") and not has_rows:
        return {"status": "failed", "reason": "it has printed no rows"}
    return {"status": "passed", "reason": None}


def run_all(machine: dict[str, Any], folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Name and status of each step, as it ends."""
    deadline = time.monotonic() + 60 * arguments.minutes
    stopped = None
    for step in STEPS:
        path = folder / f"{step.name}.json"
        status = None if step.name in arguments.again else finished(path, step)
        left = deadline - time.monotonic()
        if status is not None:
            yield step.name, f"{status} before"
        elif stopped or left < LEAST_S:
            status = "not run"
            yield step.name, f"not run: {stopped or 'the minutes are used up'}"
        else:
            head = {**machine, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "step": step.name}
            limit_s = DRY_LIMIT_S if arguments.dry_run else step.limit_s
            record = head | run_step(step, min(limit_s, left), arguments.dry_run, folder)
            replace_text(path, json_text(record, indent=1) + "\n")
            status = record["status"]
            reason = f": {record['reason']}" if record["reason"] else ""
            yield step.name, f"{status}{reason} ({record['seconds']} s)"
        if step.decisive and status in ("failed", "timed out"):
            stopped = f"{step.name} decides, and has {status}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", nargs="+", choices=[step.name for step in STEPS], default=[], metavar="STEP")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all steps together")
    parser.add_argument("--predictions", type=Path, default=RESULTS / "predictions.json", help="to compare with")
    parser.add_argument("--dry-run", action="store_true", help="tiny, without a GPU, into a temporary folder")
    parser.add_argument("--out", type=Path, help="folder of the results, in place of benchmarks/results/DATE-GPU")
    arguments = parser.parse_args()
    if not arguments.predictions.is_file():
        parser.error(f"--predictions: got {arguments.predictions}, expected a file; do `{PREDICTIONS} FILE`")
    predictions = json.loads(arguments.predictions.read_text())
    machine = describe_machine()
    if machine["cuda"] is None and not arguments.dry_run:
        parser.error("there is no GPU to run on; --dry-run runs everything at a tiny size")
    folder = arguments.out or (Path(tempfile.mkdtemp()) if arguments.dry_run else results_folder(machine))
    folder.mkdir(parents=True, exist_ok=True)
    others = {record["device"] for record in load_records(folder)} - {machine["device"]}
    if others:
        parser.error(
            f"--out: got {folder} with results of {', '.join(others)}, expected a folder of {machine['device']}"
        )
    print(f"{machine['device']}, torch {machine['torch']}, triton {machine['triton']}: {folder}", flush=True)
    statuses = []
    for name, status in run_all(machine, folder, arguments):
        print(f"{name:>{max(len(step.name) for step in STEPS)}}  {status}", flush=True)
        statuses.append(status)
    compared = compare(predictions, load_records(folder))
    print(f"{len(compared)} results have a prediction; short of it:", *shortfalls(compared) or ["none"], sep="\n  ")
    if any(status.startswith(("failed", "timed out", "not run")) for status in statuses):
        raise SystemExit(1)


if __name__ == "__main__":
    # no step outlives the program
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
