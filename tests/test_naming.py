from mhc_vision.checks import first_few


def test_the_first_few_are_named_and_the_others_counted() -> None:
    assert first_few({"b", "a"}) == "a, b"
    assert first_few(range(5)) == "0, 1, 2, 3, 4"
    assert first_few(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert first_few(range(6), in_lines=True) == "0\n1\n2\n3\n4\nand 1 more"
    assert first_few([]) == ""
