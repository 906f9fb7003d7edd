"""Ends a command with a message on stderr."""

import os
import socket
import sys
from typing import NoReturn

_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
# from the environment, before Lightning has found out itself
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def fail(message: str, *, status: int) -> NoReturn:
    """Ends the program with a message on stderr.

    Of a run of several processes the first one speaks, and the first one on every other machine, where something else
    may be wrong.
    """
    rank = process_rank()
    if rank == 0:
        print(f"mhc-vision: {message}", file=sys.stderr)
    elif not any(int(os.environ.get(name, 0)) for name in _LOCAL_RANKS):
        print(f"mhc-vision: process {rank} on {socket.gethostname()}: {message}", file=sys.stderr)
    sys.exit(status)


def process_rank() -> int:
    """Which process of a run this is: as Lightning says where it has been imported, else from the environment."""
    rank_zero = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    if rank_zero is not None:
        return getattr(rank_zero.rank_zero_only, "rank", None) or 0
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdigit()), 0)
