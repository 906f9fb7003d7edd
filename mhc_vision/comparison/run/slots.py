"""Where runs go side by side: shares of the CPU, or GPUs of their own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mhc_vision.checks import check_whole_number
from mhc_vision.data.machine import available_cores


@dataclass(frozen=True)
class Slot:
    """Room for one run at a time; `gpus` is what its process may see as CUDA_VISIBLE_DEVICES."""

    gpus: str

    def environment(self, threads: int) -> dict[str, str]:
        """The environment of a process that runs here with so many CPU threads."""
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        # of the job of the comparison, which tells its runs itself whether they go on
        inherited = {name: value for name, value in os.environ.items() if not name.endswith("_RESTART_COUNT")}
        return {**inherited, **limits, "CUDA_VISIBLE_DEVICES": self.gpus}


def find_slots(threads: int, gpus: int, jobs: int | None = None) -> list[Slot]:
    """Slots for runs of one comparison on this machine.

    Args:
        threads: CPU threads of a run.
        gpus: GPUs of a run; 0 for runs on the CPU, and with 1 they are on the CPU where there is no GPU.
        jobs: Runs side by side; `None` takes one on each GPU (or group of GPUs), on a CPU as many as have whole
            cores. More jobs than groups share them in turn.

    Raises:
        ValueError: Fewer GPUs than a run needs, or no job.
    """
    if jobs is not None:
        check_whole_number("--jobs", jobs, at_least=1)
    visible = visible_gpus() if gpus else []
    if gpus > 1 and len(visible) < gpus:
        raise ValueError(f"gpus: got {gpus}, expected at most {len(visible)}, which can be used here")
    if not visible:
        return [Slot("")] * (jobs or max(1, available_cores() // threads))
    groups = [",".join(visible[first : first + gpus]) for first in range(0, len(visible) - gpus + 1, gpus)]
    return [Slot(groups[index % len(groups)]) for index in range(jobs or len(groups))]


def describe(slots: Sequence[Slot], threads: int) -> str:
    """What a person should know of the slots, for the first line of the progress."""
    where = ", ".join(sorted({f"GPU {slot.gpus}" if slot.gpus else "CPU" for slot in slots}))
    return f"{len(slots)} at a time on {where}, {threads} CPU thread{'s' if threads > 1 else ''} each"


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]
