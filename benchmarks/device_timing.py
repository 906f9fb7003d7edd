"""Time of GPU code, the memory bandwidth to compare it with, and the machine it ran on: shared by the benchmarks.

    python benchmarks/device_timing.py        # the machine and its versions, as one line of JSON

Where there is no GPU the same calls time on the CPU, which is for dry runs: such times say nothing about a kernel.
"""

import datetime
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import triton

import mhc_vision

# of an SM's clock, at most: holds are at least as long as they say
CYCLES_PER_MS = 2_000_000
FIRST_HOLD_MS = 1.0
LONGEST_HOLD_MS = 1024.0


def time_ms(functions: list[Callable[[], Any]], repeats: int, warmups: int = 3, *, held: bool = True) -> list[float]:
    """Median milliseconds of each function; they take turns, so that clocks and neighbours slow all of them alike.

    There are no more warm-ups than timed calls: in Triton's interpreter each takes seconds.

    On a GPU a buffer larger than any L2 is overwritten before each call: nothing that a call needs is in the cache.
    Then the stream is held until the CPU has enqueued the whole call, so that what is timed is the GPU's work alone: a
    kernel of an op may end before Python has launched the next. Replaying a CUDA graph would do so, too, but not every
    function can be captured, above all those of other libraries.

    Args:
        functions: What to time, each called without arguments.
        repeats: Timed calls of each.
        warmups: Calls before, at most.
        held: Hold the stream. Not for a whole training step: it has more launches than the queue of a GPU takes
            (about a thousand), and where the CPU is what it waits for, its user waits, too.
    """
    for function in functions:
        for _ in range(min(warmups, repeats)):
            function()
    if torch.cuda.is_available():
        flush = torch.empty(2**28, dtype=torch.int8, device="cuda")
        clocks = [_GpuClock(function, flush.zero_, held) for function in functions]
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for i, function in enumerate(functions):
            times[i].append(clocks[i].once_ms() if torch.cuda.is_available() else _on_the_cpu(function))
    return [statistics.median(taken) for taken in times]


def _on_the_cpu(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - begin)


class _GpuClock:
    """Times one function by the events of its stream; remembers how long a hold it needs."""

    def __init__(self, function: Callable[[], Any], flush: Callable[[], Any], held: bool) -> None:
        self.function = function
        self.flush = flush
        self.hold_ms = FIRST_HOLD_MS if held else 0.0

    def once_ms(self) -> float:
        """Milliseconds of one call; calls again, held for longer, if the GPU has had to wait for the CPU."""
        while True:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush()
            if self.hold_ms:
                torch.cuda._sleep(int(CYCLES_PER_MS * self.hold_ms))
            start.record()
            self.function()
            end.record()
            late = bool(self.hold_ms) and start.query()
            end.synchronize()
            if not late:
                return start.elapsed_time(end)
            if self.hold_ms >= LONGEST_HOLD_MS:
                warnings.warn(
                    f"{self.function}: the CPU cannot run ahead of the GPU; its time counts, too", stacklevel=2
                )
                self.hold_ms = 0.0
            self.hold_ms *= 4


def copy_bandwidth(repeats: int, num_bytes: int = 2**30) -> float:
    """Bytes a second, read and written, of copying one buffer to another: what memory-bound code can reach."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    (milliseconds,) = time_ms([lambda: target.copy_(source)], repeats)
    return 2 * num_bytes / (1e-3 * milliseconds)


def environment() -> dict[str, Any]:
    """Date, command, machine and versions, for the head of a record of results."""
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "mhc_vision": mhc_vision.__version__,
    }


if __name__ == "__main__":
    print(json.dumps({**environment(), "cuda": torch.version.cuda if torch.cuda.is_available() else None}))
