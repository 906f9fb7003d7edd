"""One process at a time in a directory."""

import errno
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"

# locks that only the process itself holds: what it forks, data workers say, gives them up at once
_OWN: set[int] = set()


@contextmanager
def locked_directory(path: Path, argument: str, what: str, inherited: bool = False) -> Iterator[int | None]:
    """The lock of a directory, which is made; unless the lock is inherited, its file is there only while it is held.

    Where the file system has no locks, this is said in a warning and nothing is locked; nor is it on Windows.

    The lock is flock's. On NFS, Linux asks the server for it, so that it holds on all machines. With the mount options
    `local_lock` or `nolock` it holds on one machine only, and so it does on Lustre with `localflock` and on BeeGFS
    without `tuneUseGlobalFileLocks`; nothing tells.

    Args:
        path: The directory.
        argument: What an error calls the argument that it comes from.
        what: What is at work in a locked directory, in words.
        inherited: Whether processes that are started inside may hold the lock, too, as long as they live.

    Yields:
        The open file of the lock; `None` where there are no locks.

    Raises:
        ValueError: Another process holds it, or its file cannot be opened.
    """
    path.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield None
        return
    file = path / LOCK_FILE
    handle = _open_locked(file, argument, what)
    if handle is None:
        yield None
        return
    os.truncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    if not inherited:
        _OWN.add(handle)
    process = os.getpid()
    try:
        yield handle
    finally:
        if os.getpid() == process:
            _OWN.discard(handle)
            if not inherited:
                # while it is still held: who waits at the door finds that the file is no longer this one
                file.unlink(missing_ok=True)
            os.close(handle)


def _open_locked(file: Path, argument: str, what: str) -> int | None:
    import fcntl

    while True:
        try:
            # for writing: NFS has no exclusive lock of a file that is open for reading only
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            # what a killed process of another user has left, say
            raise ValueError(
                f"{argument}: {file} cannot be opened: {error.strerror}; remove it, or take another directory"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            os.close(handle)
            by = f" ({holder})" if holder else ""
            raise ValueError(
                f"{argument}: {what} at work in {file.parent}{by}: wait for it, end it, or take another directory"
            ) from error
        except OSError as error:
            os.close(handle)
            if error.errno == errno.ESTALE:
                # NFS: its last holder, on another machine, has just removed it
                continue
            file.unlink(missing_ok=True)
            warnings.warn(f"{file.parent} is not locked against other processes: {error.strerror}", stacklevel=4)
            return None
        if _is_still_there(file, handle):
            return handle
        os.close(handle)


def _is_still_there(file: Path, handle: int) -> bool:
    """Whether the locked file is the one that others will open: its last holder may just have removed it."""
    try:
        return os.path.samestat(file.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _give_up_in_child() -> None:
    for handle in _OWN:
        os.close(handle)
    _OWN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up_in_child)
