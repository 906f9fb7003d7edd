"""How much main memory there is to take."""

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def available_memory() -> int:
    """Bytes that can be taken without swapping, and not above the limit of a container; elsewhere than on Linux all."""
    if not _MEMINFO.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    available = 1024 * int(lines["MemAvailable"].removesuffix("kB"))
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.exists() else "max"
    return available if limit == "max" else min(available, int(limit))
