"""A part of a dataset in which the classes keep their balance."""

from collections import Counter
from collections.abc import Sequence

from mhc_vision.checks import check_whole_number


def balanced_subset(labels: Sequence[int], count: int) -> list[int]:
    """Indices of `count` samples, ascending: equally many of each class, give or take one, the first of each.

    A class that has fewer gives all it has, and the others fill up. Nothing is random: a count always means the same
    samples, and a larger one includes those of a smaller one.

    Args:
        labels: Class of each sample.
        count: Samples to take; all of them if there are no more.

    Raises:
        ValueError: If the count is no whole number from 1.
    """
    check_whole_number("count", count, at_least=1)
    earlier: Counter[int] = Counter()
    turns = []
    for index, label in enumerate(labels):
        # in the how-manieth round its class gives it
        turns.append((earlier[label], label, index))
        earlier[label] += 1
    return sorted(index for *_, index in sorted(turns)[:count])
