"""How many processes of a distributed run share this machine."""

import os

from lightning.pytorch import Trainer


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
