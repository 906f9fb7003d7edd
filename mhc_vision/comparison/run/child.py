"""Starts processes that do not outlive their parent."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1


def start(command: Sequence[str], environment: Mapping[str, str], log: IO[bytes], lock: int | None) -> subprocess.Popen:
    """Starts a process that writes into `log` and holds `lock` as long as it lives.

    It is in a session of its own, so that Ctrl-C at a terminal reaches the caller only. On Linux the kernel sends it
    SIGINT when the calling thread ends in whatever way; elsewhere the lock tells that it goes on.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        # lines in the order they were written: the last one of a failed run is its error
        env={**environment, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
        preexec_fn=_interrupt_with_parent(),
    )


def _interrupt_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    # loaded before the fork: afterwards only the call itself is safe
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        # a shell's background jobs ignore it, and so would what they start
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
