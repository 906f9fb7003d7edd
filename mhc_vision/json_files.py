"""Read JSON that others may have written: it has the form that was expected, or an error names the file."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_json_object(argument: str, path: str | os.PathLike[str], needed: Iterable[str] = ()) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        argument: What an error begins with.
        path: The file.
        needed: Keys that it must have.

    Raises:
        ValueError: It cannot be read, is no JSON, holds something else, or lacks a key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{argument}: {path} cannot be read: {error}") from error
    return json_object(argument, text, str(path), needed)


def json_object(argument: str, text: str, source: str, needed: Iterable[str] = ()) -> dict[str, Any]:
    """The object that a JSON text holds; `source` is what an error calls it.

    Raises:
        ValueError: As `read_json_object`.
    """
    try:
        content = json.loads(text)
    # brackets that are open a thousand times over end in a RecursionError
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{argument}: {source} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{argument}: {source} holds {type(content).__name__}, expected an object")
    if missing := [key for key in needed if key not in content]:
        raise ValueError(f"{argument}: {source} has no {', '.join(missing)}")
    return content
