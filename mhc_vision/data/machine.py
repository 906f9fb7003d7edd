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
        raise ValueError(f"LOCAL_WORLD_SIZE: got {count!r}, expected a whole number from 1")
    return int(count)


def share_of_data(trainer: Trainer | None) -> tuple[int, int]:
    """Which share of the data this process has, and how many there are.

    Processes have one each, but those of a pipeline have the same one: its strategy has a `pipeline_size`.
    """
    if trainer is None:
        return 0, 1
    stages = getattr(trainer.strategy, "pipeline_size", 1)
    return trainer.global_rank // stages, trainer.world_size // stages


def check_memory(num_images: int, channels: int, img_size: int, num_copies: int = 1) -> None:
    """Check that the memory can hold so many uint8 images (channels, img_size, img_size).

    Args:
        num_images: Images in each copy.
        channels: Of an image.
        img_size: Height and width of an image.
        num_copies: Processes on this machine, each of which holds all images.

    Raises:
        ValueError: If it cannot.
    """
    require_memory(
        num_images * channels * img_size**2,
        num_copies,
        what=f"img_size: {num_images} images of {channels} x {img_size} x {img_size}",
        advice="make img_size smaller, set max_train_images, or read them from files (ImageFolderDataModule)",
    )


def require_memory(num_bytes: int, num_copies: int, what: str, advice: str) -> None:
    """Check that the memory can hold so many bytes.

    Args:
        num_bytes: Of each copy.
        num_copies: Processes on this machine, each of which holds a copy.
        what: The beginning of the error, which says what the bytes are.
        advice: Its end.

    Raises:
        ValueError: If it cannot.
    """
    needed, available = num_copies * num_bytes, available_memory()
    if needed > available:
        times = f" in each of {num_copies} processes" if num_copies > 1 else ""
        raise ValueError(
            f"{what}{times}: got {available / 2**30:.1f} GiB of memory, expected {needed / 2**30:.1f} GiB; {advice}"
        )


def _read(name: str) -> str | None:
    """What a file of the container's memory controller says, `None` where it cannot be read."""
    try:
        return (_CONTAINER / name).read_text().strip()
    except OSError:
        return None
