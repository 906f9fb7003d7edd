"""Checks of what users give, and the words of their errors: a mistake is named before any work is done."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

_NUM_NAMED = 5


def check_number(
    argument: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ValueError unless `value` is a finite number in a range; NaN, which no `x < 0` refuses, is in none.

    Args:
        argument: What the error calls it.
        value: What was given.
        at_least: Smallest value.
        above: Value that it must exceed, in place of `at_least`.
        at_most: Largest value.
        below: Value that it must stay below, in place of `at_most`.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # torch.compile traces comparisons of a number that it has made symbolic, and no math.isfinite
    if is_number and -math.inf < value < math.inf:
        fits = (
            (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )
        if fits:
            return
    bounds = (("at least", at_least), ("above", above), ("at most", at_most), ("below", below))
    limits = [f"{words} {bound:g}" for words, bound in bounds if bound is not None]
    expected = " ".join(["a finite number", " and ".join(limits)]).rstrip()
    raise ValueError(f"{argument}: got {value!r}, expected {expected}")


def check_numbers(
    argument: str,
    values: Any,
    *,
    length: int | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ValueError unless `values` are one finite number or more, each as in `check_number`.

    Args:
        argument: What the error calls them.
        values: What was given.
        length: How many are expected.
        at_least: Smallest value.
        above: Value that each must exceed, in place of `at_least`.
        at_most: Largest value.
        below: Value that each must stay below, in place of `at_most`.
    """
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_sequence or not values or (length is not None and len(values) != length):
        raise ValueError(f"{argument}: got {values!r}, expected {length or 'one or more'} numbers")
    for place, value in enumerate(values):
        check_number(f"{argument}[{place}]", value, at_least=at_least, above=above, at_most=at_most, below=below)


def check_whole_number(argument: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> None:
    """Raise ValueError unless `value` is a whole number in a range; True and 2.0 are none.

    Args:
        argument: What the error calls it.
        value: What was given.
        at_least: Smallest value.
        at_most: Largest value.
    """
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if fits and (at_least is None or value >= at_least) and (at_most is None or value <= at_most):
        return
    limits = [f"{word} {bound}" for word, bound in (("from", at_least), ("to", at_most)) if bound is not None]
    raise ValueError(f"{argument}: got {value!r}, expected {' '.join(['a whole number', *limits])}")


def check_choice(argument: str, value: Any, known: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of a few names; the message has them, and those like `value`."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise ValueError(f"{argument}: got {value!r}, expected one of {', '.join(names)}{hint}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: known names like it, or an empty text."""
    names = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=5)
    return f"; nearest: {', '.join(names)}" if names else ""


def first_few(names: Iterable[object], in_lines: bool = False) -> str:
    """The first few of `names`, sorted as text, and how many more there are.

    Args:
        names: What to name.
        in_lines: Each in a line of its own, in place of commas.
    """
    ordered = sorted(map(str, names))
    between, before_and = ("\n", "\n") if in_lines else (", ", " ")
    some = between.join(ordered[:_NUM_NAMED])
    more = len(ordered) - _NUM_NAMED
    return some if more <= 0 else f"{some}{before_and}and {more} more"


def same_setting(one: Any, other: Any) -> bool:
    """Whether two settings are the same; tuples come back as lists from a file."""
    one, other = (list(value) if isinstance(value, tuple) else value for value in (one, other))
    return bool(one == other)
