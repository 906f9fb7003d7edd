"""SIGTERM as an exception: what a program holds open is closed, and what it was writing leaves nothing half written."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came. A `KeyboardInterrupt`, because all code that cleans up after Ctrl-C then does so here, too."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside; outside, signals are handled as before.

    Only the main thread can take signals: in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def terminate(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            # a forked worker has nothing of its own to clean up, and no one who would catch the exception
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
            return
        raise Terminated

    # SIGINT, too: what trains inside may leave its own handler behind
    interrupt = signal.getsignal(signal.SIGINT)
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        for signum, handler in ((signal.SIGTERM, previous), (signal.SIGINT, interrupt)):
            # None: a handler that is not Python's, which Python cannot put back
            if handler is not None:
                signal.signal(signum, handler)


def exit_status(signum: int) -> int:
    """What shells call the status of a program that a signal ended."""
    return 128 + signum
