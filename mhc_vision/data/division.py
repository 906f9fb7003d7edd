"""Parts of a dataset, class by class; nothing but the labels changes them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

import torch

from mhc_vision.checks import check_number, check_whole_number

_SEED = 0


def hold_out(
    labels: Sequence[int], share: float, groups: Sequence[Hashable] | None = None
) -> tuple[list[int], list[int]]:
    """Hold a share of each class out, drawn at random but always the same.

    Args:
        labels: Class of each sample.
        share: Of each class that is held out, in (0, 1): at least one sample, unless the class has only one.
        groups: What each sample shows, where several of a class show the same; these stay together, and the share is
            of the groups.

    Returns:
        Indices that stay and indices that are held out, both ascending.

    Raises:
        ValueError: If the share is out of range.
    """
    check_number("share", share, above=0, below=1)
    drawn, rest = _draw(labels, lambda count: min(max(1, round(share * count)), count - 1), groups)
    return rest, drawn


def draw_per_class(labels: Sequence[int], number: int) -> tuple[list[int], list[int]]:
    """Draw so many samples of each class, at random but always the same.

    Args:
        labels: Class of each sample.
        number: Samples of each class to draw; a class that has no more gives all but one.

    Returns:
        Indices that are drawn and the other ones, both ascending.

    Raises:
        ValueError: If the number is out of range.
    """
    check_whole_number("number", number, at_least=1)
    return _draw(labels, lambda count: max(1, min(number, count - 1)))


def _draw(
    labels: Sequence[int], how_many: Callable[[int], int], groups: Sequence[Hashable] | None = None
) -> tuple[list[int], list[int]]:
    """Indices of the `how_many(number of groups)` groups that are drawn of each class, and the others."""
    classes: dict[int, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, label in enumerate(labels):
        classes[label][index if groups is None else groups[index]].append(index)
    generator = torch.Generator().manual_seed(_SEED)
    drawn: list[int] = []
    for _, members in sorted(classes.items()):
        units = list(members.values())
        order = torch.randperm(len(units), generator=generator).tolist()
        drawn += [index for unit in order[: how_many(len(units))] for index in units[unit]]
    chosen = set(drawn)
    return sorted(drawn), [index for index in range(len(labels)) if index not in chosen]


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
