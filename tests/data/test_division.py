import pytest

from mhc_vision.data.division import draw_per_class, hold_out

LABELS = [0] * 20 + [1] * 5 + [2] * 2 + [3]


def of_class(indices: list[int], label: int) -> int:
    return sum(LABELS[index] == label for index in indices)


def test_a_share_of_each_class_is_held_out_and_nothing_is_lost() -> None:
    kept, held = hold_out(LABELS, 0.2)
    assert [of_class(held, label) for label in range(4)] == [4, 1, 1, 0]
    assert sorted(kept + held) == list(range(len(LABELS)))
    assert (kept, held) == (sorted(kept), sorted(held))


def test_it_is_drawn_at_random_and_always_the_same() -> None:
    kept, held = hold_out(LABELS, 0.2)
    assert hold_out(LABELS, 0.2) == (kept, held)
    # neither the first four of the class nor the last four
    assert held[:4] not in ([0, 1, 2, 3], [16, 17, 18, 19])


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_both_parts_have_every_class_that_can_be_in_both(share: float) -> None:
    for part in hold_out(LABELS, share):
        assert all(of_class(part, label) for label in range(3))
    assert of_class(hold_out(LABELS, share)[0], 3) == 1


def test_groups_stay_together() -> None:
    labels = [0] * 12 + [1] * 12
    # the same number in another class is another group
    groups = [index % 4 for index in range(24)]
    kept, held = hold_out(labels, 0.25, groups)
    for label in (0, 1):
        numbers = [{groups[index] for index in part if labels[index] == label} for part in (kept, held)]
        assert [len(part) for part in numbers] == [3, 1]
        assert not numbers[0] & numbers[1]
    assert (len(kept), len(held)) == (18, 6)


def test_so_many_are_drawn_of_each_class_and_the_rest_stays() -> None:
    drawn, rest = draw_per_class(LABELS, 4)
    assert [of_class(drawn, label) for label in range(4)] == [4, 4, 1, 1]
    assert [of_class(rest, label) for label in range(4)] == [16, 1, 1, 0]
    assert sorted(drawn + rest) == list(range(len(LABELS)))
    assert draw_per_class(LABELS, 4) == (drawn, rest)
