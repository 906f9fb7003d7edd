"""What this machine has for a process: cores, memory, and other processes of the run."""

import os
from pathlib import Path

from lightning.pytorch import Trainer

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")
_FILE_CACHE = ("active_file", "inactive_file")


def available_memory() -> int:
    """Bytes that can be taken without swapping, and not above the limit of a container; elsewhere than on Linux all.

    What a container holds already counts against its limit, except for its cache of files, which the kernel gives back
    when memory is asked for. Where only the limit can be read, it is taken as a whole.
    """
    if not _MEMINFO.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    available = 1024 * int(lines["MemAvailable"].removesuffix("kB"))
    limit = _read("memory.max")
    if limit in (None, "max"):
        return available
    usage = dict(line.split() for line in (_read("memory.stat") or "").splitlines())
    held = int(_read("memory.current") or 0) - sum(int(usage.get(name, 0)) for name in _FILE_CACHE)
    return min(available, max(0, int(limit) - max(0, held)))


def _read(name: str) -> str | None:
    """What a file of the container's memory controller says, `None` where it cannot be read."""
    try:
        return (_CONTAINER / name).read_text().strip()
    except OSError:
        return None


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_processes(trainer: Trainer | None) -> int:
    """Processes of this run on this machine.

    Args:
        trainer: Knows its own. Before there is one, `LOCAL_WORLD_SIZE` tells, which torchrun sets; Lightning's own
            launcher sets nothing of the kind, so it is 1 then.

    Raises:
        ValueError: If `LOCAL_WORLD_SIZE` is no number of processes.
    """
    if trainer is not None:
        return trainer.num_devices
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"LOCAL_WORLD_SIZE must be a whole number of at least 1, got {count!r}")
    return int(count)
