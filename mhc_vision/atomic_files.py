"""Files and directories that are either complete or not there, also after the machine has lost its power."""

import errno
import json
import math
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# .NAME.HOST-PID-XXXXXXXX.tmp: who wrote it can be asked for
_SUFFIX = ".tmp"
# .NAME.previous: what a directory takes the place of
_PREVIOUS = ".previous"
_MAX_NAME = 64
_TRIAL_BYTES = 2**16


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file to, which becomes `path` when the `with` block ends well: no reader ever sees half a file.

    The path has the name that the file will have, in a temporary directory beside it. What was at `path` stays whole
    until the new file has reached the disk. After an error nothing is left of the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = _temporary_folder(path)
    try:
        yield folder / path.name
        sync(folder / path.name)
        os.replace(folder / path.name, path)
        sync(path.parent)
    finally:
        shutil.rmtree(folder)


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` as `replaced_file` does."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` to write into, which becomes `path` when the `with` block ends well.

    After an error nothing is left of it. The caller has checked that `path` is not there yet.

    Raises:
        ValueError: If there can be no such directory.
    """
    try:
        temporary = temporary_directory(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
    try:
        yield temporary
        replace_directory(temporary, path)
    except BaseException:
        shutil.rmtree(temporary)
        raise


def temporary_directory(path: Path) -> Path:
    """A new directory beside `path`, for `replace_directory`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _temporary_folder(path)


def replace_directory(temporary: Path, path: Path) -> None:
    """Makes what has been written to a `temporary_directory` the directory `path`; what was there goes.

    No file system swaps two directories in one step: where the process is killed between the two that it takes,
    `restore_previous` puts back what was there.
    """
    temporary.chmod(0o777 & ~_umask())
    for entry in [*temporary.rglob("*"), temporary]:
        sync(entry)
    previous = path.with_name(f".{path.name}{_PREVIOUS}")
    if path.exists():
        _remove(previous)
        os.rename(path, previous)
    os.rename(temporary, path)
    sync(path.parent)
    _remove(previous)


def restore_previous(directory: Path) -> None:
    """Puts back what a killed `replace_directory` was about to replace here; to be called by who alone writes here."""
    for previous in directory.glob(f".*{_PREVIOUS}"):
        path = directory / previous.name[1:].removesuffix(_PREVIOUS)
        if path.exists():
            _remove(previous)
        else:
            os.rename(previous, path)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the entries of a directory, have reached the disk."""
    if os.name == "nt" and path.is_dir():
        # Windows opens no directories
        return
    # Windows syncs no files that are open for reading only
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # file systems that cannot sync a directory say so in one of these ways
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def remove_leftovers(directory: Path) -> None:
    """Removes what killed processes have left half written in a directory; to be called by who alone writes there.

    Temporaries of this machine's processes that are still alive stay: others may write beside a run, too.
    """
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        if entry.name.startswith(".") and entry.name.endswith(_SUFFIX) and not _is_being_written(entry.name):
            _remove(entry)


def check_writable(path: Path, argument: str) -> None:
    """Check that `replace_text` can write to `path`, before the work: a result that cannot be kept is worth little.

    Args:
        path: The file, there or not.
        argument: What an error calls the argument that it comes from.

    Raises:
        ValueError: If it cannot.
    """
    if path.is_dir():
        raise ValueError(f"{argument}: got {path}, a directory, expected a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{argument}: got {path}, expected a regular file")
    check_writable_directory(path.absolute().parent, argument)


def check_new_directory(directory: Path, argument: str) -> None:
    """Raise ValueError unless `directory` is new or empty, in a writable place."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"{argument}: got {directory}, which is there already, expected a new or an empty directory")
    parent = next(path for path in directory.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(
            f"{argument}: got {directory}, which cannot be made in {parent}, expected a place that can be written to"
        )


def check_writable_directory(directory: Path, argument: str) -> None:
    """Check that files can be written to a directory, which need not be there yet, by writing one.

    Args:
        directory: The directory.
        argument: What an error calls the argument that it comes from.

    Raises:
        ValueError: If they cannot: it, or what is above it, is a file, read-only or on a full disk.
    """
    directory = directory.absolute()
    # a link that leads nowhere is in the way, too
    there = next(folder for folder in (directory, *directory.parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise ValueError(f"{argument}: {directory} cannot be written to: {there} is no directory")
    try:
        with suppress(FileNotFoundError):
            # a name may be too long to be there
            os.lstat(directory)
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(f"{argument}: {directory} cannot be written to: {there}: {error.strerror}") from error


def json_number(value: Any) -> Any:
    """The JSON form of a metric: numbers stay, NaN and infinities become the texts that `float()` reads back.

    JSON has no NaN. The texts `"nan"`, `"inf"` and `"-inf"` keep the file valid for every reader and still say what
    happened, which `null` would not.
    """
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def json_text(record: dict[str, Any], *, indent: int | None = None) -> str:
    """Strict JSON of a flat or nested record whose numbers may be tensors, NaN or infinite."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        return json_number(value)

    return json.dumps(plain(record), allow_nan=False, indent=indent)


def _temporary_folder(path: Path) -> Path:
    """A new directory beside `path`; those that killed processes have left of the same file go."""
    prefix = f".{path.name[:_MAX_NAME]}."
    for entry in path.parent.iterdir():
        ours = entry.name.startswith(prefix) and entry.name.endswith(_SUFFIX)
        if ours and _is_of_this_host(entry.name) and not _is_being_written(entry.name):
            _remove(entry)
    return Path(tempfile.mkdtemp(_SUFFIX, f"{prefix}{_host()}-{os.getpid()}-", path.parent))


def _is_of_this_host(name: str) -> bool:
    return _writer(name)[0] == _host()


def _is_being_written(name: str) -> bool:
    """Whether the process that made a temporary is alive, as far as this machine can tell."""
    host, process = _writer(name)
    if host != _host():
        return False
    if sys.platform == "win32":
        # it cannot be asked: signal 0 is Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        # somebody else's
        pass
    return True


def _writer(name: str) -> tuple[str, int]:
    """Host and process that a temporary's name tells; an empty host where it tells none."""
    host, process, *rest = [*name.removesuffix(_SUFFIX).rpartition(".")[2].rsplit("-", 2), "", ""][:3]
    return (host, int(process)) if rest and process.isdecimal() and int(process) > 0 else ("", 0)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        # another process may be about to remove it, too
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _host() -> str:
    """Name of this machine, without dots, which separate the parts of a temporary's name."""
    return socket.gethostname().partition(".")[0] or "localhost"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
