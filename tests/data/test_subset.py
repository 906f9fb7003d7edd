from collections import Counter
from itertools import pairwise

from mhc_vision.data.division import balanced_subset

LABELS = [0] * 5 + [1] * 2 + [2] * 4


def test_classes_are_balanced_and_a_small_one_gives_all_it_has() -> None:
    for count, expected in ((3, [1, 1, 1]), (7, [3, 2, 2]), (9, [4, 2, 3]), (11, [5, 2, 4]), (50, [5, 2, 4])):
        chosen = Counter(LABELS[index] for index in balanced_subset(LABELS, count))
        assert [chosen[label] for label in range(3)] == expected


def test_more_includes_fewer_and_the_order_stays() -> None:
    parts = [balanced_subset(LABELS, count) for count in range(1, 12)]
    for count, (fewer, more) in enumerate(pairwise(parts), start=1):
        assert len(fewer) == count
        assert set(fewer) < set(more)
        assert more == sorted(more)


def test_order_of_the_labels_does_not_matter() -> None:
    assert balanced_subset([2, 1, 0, 2, 1, 0], 3) == [0, 1, 2]
