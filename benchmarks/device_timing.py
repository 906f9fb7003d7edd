"""Time of GPU code, the memory bandwidth to compare it with, and the machine it ran on: shared by the benchmarks.

Where there is no GPU the same calls time on the CPU, which is for dry runs: such times say nothing about a kernel.
"""

import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import triton

import mhc_vision


def time_ms(functions: list[Callable[[], Any]], repeats: int, warmups: int = 3) -> list[float]:
    """Median milliseconds of each function; they take turns, so that clocks and neighbours slow all of them alike.

    There are no more warm-ups than timed calls: in Triton's interpreter each takes seconds.

    On a GPU a buffer larger than any L2 is overwritten before each call: nothing that a call needs is in the cache.
    """
    for function in functions:
        for _ in range(min(warmups, repeats)):
            function()
    flush = torch.empty(2**28, dtype=torch.int8, device="cuda") if torch.cuda.is_available() else None
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            taken.append(_once_ms(function, flush))
    return [statistics.median(taken) for taken in times]


def _once_ms(function: Callable[[], Any], flush: torch.Tensor | None) -> float:
    if flush is None:
        begin = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - begin)
    flush.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


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
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU (dry run)",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "mhc_vision": mhc_vision.__version__,
    }
