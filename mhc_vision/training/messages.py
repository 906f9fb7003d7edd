"""Ends a command with a message on stderr."""

import os
import socket
import sys
from typing import NoReturn

from lightning.pytorch.utilities import rank_zero_only

_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


def fail(message: str, *, status: int) -> NoReturn:
    """Ends the program with a message on stderr.

    Of a run of several processes the first one speaks, and the first one on every other machine, where something else
    may be wrong.
    """
    rank = getattr(rank_zero_only, "rank", None) or 0
    if rank == 0:
        print(f"mhc-vision: {message}", file=sys.stderr)
    elif not any(int(os.environ.get(name, 0)) for name in _LOCAL_RANKS):
        print(f"mhc-vision: process {rank} on {socket.gethostname()}: {message}", file=sys.stderr)
    sys.exit(status)
