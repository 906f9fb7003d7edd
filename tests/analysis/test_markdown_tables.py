import pytest

from mhc_vision.report.markdown import markdown_table


def test_rows_become_a_padded_table_with_a_header():
    table = markdown_table([{"run": "baseline", "%": 96.1}, {"run": "m|c", "%": 7}])
    assert table == (
        "| run      |    % |\n"
        "| -------- | ---: |\n"
        "| baseline | 96.1 |\n"
        "| m\\|c     |    7 |\n"
    )  # fmt: skip
    # in code as well, which a table splits at its pipes
    assert markdown_table([{"run": "`m|c`"}]).splitlines()[2] == r"| `m\|c` |"


def test_rows_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"^rows: got none, expected at least one"):
        markdown_table([])
    with pytest.raises(ValueError, match=r"^rows: got one with the keys \['b'\], expected \['a'\]"):
        markdown_table([{"a": 1}, {"b": 2}])
