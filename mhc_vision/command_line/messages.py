"""What a command says on stderr: the message that ends it, and notes on what it does."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
# from the environment, before Lightning has found out itself
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")

_ERRORS: dict[int, type[BaseException]] = {2: ValueError, 128 + signal.SIGINT: KeyboardInterrupt}
_raises: ContextVar[bool] = ContextVar("raises", default=False)


@contextmanager
def failures_raised() -> Iterator[None]:
    """In here `fail` raises, for callers in Python: ValueError for status 2, KeyboardInterrupt for 130.

    Raises:
        RuntimeError: For every other status.
    """
    token = _raises.set(True)
    try:
        yield
    finally:
        _raises.reset(token)


def fail(message: str, *, status: int) -> NoReturn:
    """Ends the program with a message on stderr; within `failures_raised`, raises it.

    Of a run of several processes the first one speaks, and the first one on every other machine, where something else
    may be wrong.
    """
    if _raises.get():
        raise _ERRORS.get(status, RuntimeError)(message.removeprefix("error: "))
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


@contextmanager
def shown_notes() -> Iterator[None]:
    """Around a command: what `mhc_vision.progress.note` says is shown on stderr, by the first process."""
    logger, handler = logging.getLogger("mhc_vision.progress"), _Notes()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if process_rank() == 0:
            # stderr of now: it may have been replaced
            print(record.getMessage(), file=sys.stderr, flush=True)
