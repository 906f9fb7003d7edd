"""A connection in words, for people: `plain`, `mhc with 4 streams`, `mhc (identity) with 4 streams`."""

from collections.abc import Mapping
from typing import Any


def constraint_of(settings: Mapping[str, Any]) -> str | None:
    """The constraint that the settings of a run give its connections, where they name one."""
    constraint = (settings["model_args"] or {}).get("constraint")
    return constraint if settings["connection"] is not None else None


def connection_text(connection: str | None, num_streams: int, constraint: str | None = None) -> str:
    """The connection of a model in words.

    Args:
        connection: As in a configuration; `None` for a plain model.
        num_streams: That the model has.
        constraint: Of `res`, where it is named: identity HC is mHC with the constraint `identity`.
    """
    if connection is None:
        return "plain"
    kind = connection if constraint is None else f"{connection} ({constraint})"
    return kind if num_streams == 1 else f"{kind} with {num_streams} streams"
