"""Kinds of values that a file may hold, for the schemas of what is read: each says what fits, and in words what does.

A value from a file is data: numbers, texts, and lists and mappings of them. Nothing here looks a name up or calls it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = 60


@dataclass(frozen=True)
class Kind:
    """What is expected of a value.

    Attributes:
        expected: In words.
        fits: Whether a value is of this kind.
    """

    expected: str
    fits: Callable[[Any], bool]

    def check(self, key: str, value: Any) -> None:
        """Raise ValueError, which names `key`, unless the value is of this kind."""
        if not self.fits(value):
            raise ValueError(f"{key}: got {shown(value)}, expected {self.expected}")


def shown(value: Any) -> str:
    """A value for a message: of long ones the type and the beginning, of tensors the shape."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{type(value).__name__} {text[:_SHOWN]}..."


def whole(at_least: int, at_most: int | None = None) -> Kind:
    """Whole numbers in a range."""
    return Kind(
        f"a whole number from {at_least}" + ("" if at_most is None else f" to {at_most}"),
        lambda value: (
            isinstance(value, int)
            and not isinstance(value, bool)
            and value >= at_least
            and (at_most is None or value <= at_most)
        ),
    )


def number(at_least: float = -math.inf, at_most: float = math.inf, above: float = -math.inf) -> Kind:
    """Finite numbers in a range."""
    limits = [f"at least {at_least:g}"] if at_least > -math.inf else []
    limits += [f"above {above:g}"] if above > -math.inf else []
    limits += [f"at most {at_most:g}"] if at_most < math.inf else []
    return Kind(
        " ".join(["a finite number", " and ".join(limits)]).rstrip(),
        # a whole number too long for a float is none that anything computes with
        lambda value: (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < 1e300
            and at_least <= value <= at_most
            and value > above
        ),
    )


def one_of(*values: Any) -> Kind:
    """One of some texts, or None."""
    words = ", ".join("null" if value is None else str(value) for value in values)
    return Kind(f"one of {words}", lambda value: (value is None or isinstance(value, str)) and value in values)


def either(*kinds: Kind) -> Kind:
    """Of one of the kinds."""
    return Kind(", or ".join(kind.expected for kind in kinds), lambda value: any(kind.fits(value) for kind in kinds))


def optional(kind: Kind) -> Kind:
    """Of the kind, or None."""
    return Kind(f"{kind.expected}, or null", lambda value: value is None or kind.fits(value))


def list_of(kind: Kind, length: int | None = None, what: str = "values") -> Kind:
    """Lists or tuples whose entries are all of a kind, of any length or of this one."""
    count = "" if length is None else f"{length} "
    return Kind(
        f"a list of {count}{what}, each {kind.expected}",
        lambda value: (
            isinstance(value, list | tuple)
            and length in (None, len(value))
            and all(kind.fits(entry) for entry in value)
        ),
    )


def _is_plain(value: Any, depth: int = 0) -> bool:
    if depth > 20:
        return False
    if isinstance(value, Mapping):
        return type(value) is dict and all(
            isinstance(key, str) and key != "class_path" and _is_plain(entry, depth + 1) for key, entry in value.items()
        )
    if isinstance(value, list | tuple):
        return all(_is_plain(entry, depth + 1) for entry in value)
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


TEXT = Kind("a text", lambda value: isinstance(value, str) and bool(value))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
MAPPING = Kind(
    "a mapping with texts as keys", lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value)
)
PLAIN = Kind("numbers, texts, or lists and mappings of them without class_path", _is_plain)


def check_fields(
    where: str, content: Mapping[str, Any], fields: Mapping[str, Kind], others: Kind | None = PLAIN
) -> None:
    """Raise ValueError unless each entry is of its kind.

    Args:
        where: What the keys belong to: an error calls one `<where>.<key>`.
        content: The entries.
        fields: Kinds by key; entries that are not there are not asked for.
        others: Of the entries whose keys are not in `fields`; `None` refuses them.
    """
    for key, value in content.items():
        kind = fields.get(key, others)
        if kind is None:
            raise ValueError(f"{where}.{key}: unknown, expected some of {', '.join(fields)}")
        kind.check(f"{where}.{key}", value)
