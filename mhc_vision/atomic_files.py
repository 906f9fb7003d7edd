"""Files and directories that are either complete or not there."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` by way of a temporary file beside it, so that no reader ever sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes files private; a run directory is read by other people
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def check_writable(path: Path, argument: str) -> None:
    """Check that `replace_text` can write to `path`, before the work: a result that cannot be kept is worth little.

    Args:
        path: The file, there or not.
        argument: What an error calls the argument that it comes from.

    Raises:
        ValueError: If it cannot.
    """
    if path.is_dir():
        raise ValueError(f"{argument}: {path} is a directory, expected a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{argument}: {path} is no regular file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"{argument}: {path} cannot be written: {parent} is no directory that one may write to")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` to write into, which becomes `path` when the `with` block ends well.

    After an error nothing is left of it. The caller has checked that `path` is not there yet.

    Raises:
        ValueError: If there can be no such directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary)
        raise


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
