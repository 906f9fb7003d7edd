"""How messages name many things: the first few, and how many more there are."""

from collections.abc import Iterable

_NUM_NAMED = 5


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
