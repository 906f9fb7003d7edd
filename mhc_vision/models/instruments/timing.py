"""How long functions take beside each other, so that the noise of the machine hits all of them alike."""

import math
from collections.abc import Callable, Mapping

import torch
from torch.utils import benchmark

_WARMUPS = 2
_SECONDS_PER_BLOCK = 0.01


def alternate(
    functions: Mapping[str, Callable[[], object]], *, seconds: float, least_rounds: int = 5
) -> dict[str, benchmark.Measurement]:
    """Times functions in turns: each round runs all of them, every other round in the opposite order.

    Args:
        functions: By name. Each runs twice before it is timed.
        seconds: To go on for, with each function.
        least_rounds: Rounds where these seconds are over sooner.

    Returns:
        For each function seconds per call (`times`, `median`, `iqr`); its device has been waited for.
    """
    calls = {name: _calls_per_block(function) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    # of the quickest, so that each has its seconds
    while len(times[order[0]]) < least_rounds or min(map(sum, times.values())) < seconds:
        for name in order:
            times[name].append(_seconds(functions[name], calls[name]))
        order.reverse()
    return {
        name: benchmark.Measurement(
            number_per_run=calls[name],
            raw_times=taken,
            task_spec=benchmark.TaskSpec(stmt=name, setup="", num_threads=torch.get_num_threads()),
        )
        for name, taken in times.items()
    }


def _calls_per_block(function: Callable[[], object]) -> int:
    """Calls that are long enough for the clock."""
    for _ in range(_WARMUPS):
        taken = _seconds(function, 1)
    return max(1, math.ceil(_SECONDS_PER_BLOCK / max(taken, 1e-9)))


def _seconds(function: Callable[[], object], calls: int) -> float:
    # it waits for the device
    began = benchmark.timer()
    for _ in range(calls):
        function()
    return benchmark.timer() - began
