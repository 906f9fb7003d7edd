"""What a comparison is doing, for a person at a terminal or reading a log file."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mhc_vision.comparison.plan.matrix import Cell
from mhc_vision.comparison.run.directory import Failure
from mhc_vision.comparison.run.metrics import VALIDATION_LOSS
from mhc_vision.comparison.run.records import RunRecord
from mhc_vision.progress import duration
from mhc_vision.run_directory import METRICS_LOG

_REFRESH_S = 1.0
_TAIL_BYTES = 4096


class Progress:
    """A line for each run that starts or ends; at a terminal a last line that says how far the running ones are.

    Args:
        stream: Where it is shown; `None` takes the standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._total = 0
        self._ended = 0
        self._ended_here = 0
        self._began = self._shown = time.monotonic()

    def begin(self, total: int, finished: int) -> None:
        """Of `total` runs, `finished` are kept from earlier."""
        self._total, self._ended = total, finished
        self._began = time.monotonic()
        kept = f", {finished} of them finished earlier" if finished else ""
        self._print(f"{total} runs{kept}")

    def started(self, cell: Cell) -> None:
        """A run starts or goes on."""
        self._print(f"{self._count()} {cell.name}: started")

    def submitted(self, submitted: int, earlier: int, cancel: str) -> None:
        """Runs are jobs, some since an earlier command; `cancel` is the command that cancels all of them."""
        jobs = f"{submitted} jobs submitted" + (f", {earlier} submitted earlier" if earlier else "")
        self._print(f"{jobs}; Ctrl-C stops watching them, `{cancel}` cancels them")

    def ended(self, cell: Cell, end: RunRecord | Failure, seconds: float) -> None:
        """A run came to its end or failed, `seconds` after it was started here."""
        if isinstance(end, Failure):
            self.failed(cell, end)
        else:
            self.finished(end, seconds)

    def finished(self, record: RunRecord, seconds: float) -> None:
        """A run came to its end, `seconds` after it was started here."""
        self._ended += 1
        self._ended_here += 1
        metrics = (record.metrics[0], VALIDATION_LOSS)
        shown = [metric.text(value) for metric in metrics if (value := record.value(metric)) is not None]
        self._print(f"{self._count()} {record.cell.name}: {', '.join(shown)}, {seconds:.0f} s{self._left()}")

    def failed(self, cell: Cell, failure: Failure) -> None:
        """A run failed."""
        self._ended += 1
        self._ended_here += 1
        reason = failure.lines[-1] if failure.lines else "it printed nothing"
        self._print(f"{self._count()} {cell.name}: FAILED with status {failure.status}: {reason}")

    def stopping(self, running: int) -> None:
        """The comparison was asked to stop."""
        self._print(f"stopping: {running} runs save a checkpoint; Ctrl-C again stops them at once")

    def stopped(self, cell: Cell) -> None:
        """A run has stopped because it was asked to."""
        self._print(f"{self._count()} {cell.name}: stopped")

    def show(self, running: Sequence[tuple[Cell, Path]]) -> None:
        """At a terminal, shows how far runs are, at most once a second."""
        if not running or not self._live or time.monotonic() - self._shown < _REFRESH_S:
            return
        self._shown = time.monotonic()
        parts = [f"{cell.name} {_position(run_dir / METRICS_LOG)}" for cell, run_dir in running]
        line = f"{self._count()} " + " | ".join(parts)
        # a longer line would wrap, and not be overwritten
        self._stream.write("\r\x1b[K" + line[: shutil.get_terminal_size()[0] - 1])
        self._stream.flush()

    def _count(self) -> str:
        return f"[{self._ended:{len(str(self._total))}d}/{self._total}]"

    def _left(self) -> str:
        left = self._total - self._ended
        if not left:
            return ""
        seconds = (time.monotonic() - self._began) / self._ended_here * left
        return f"; about {duration(seconds)} left"

    def _print(self, line: str) -> None:
        self._stream.write(("\r\x1b[K" if self._live else "") + line + "\n")
        self._stream.flush()


def _position(log: Path) -> str:
    """The step of the last whole line of a log."""
    if not log.exists():
        return "starting"
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    try:
        record = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        # a line longer than what was read
        return "running"
    return f"step {record['step'] + 1}"
