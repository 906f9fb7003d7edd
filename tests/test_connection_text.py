import json

import pytest

from mhc_vision.connection_text import connection_text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((None, 1), "plain"),
        (("parallel", 1), "parallel"),
        (("mhc", 4), "mhc with 4 streams"),
        (("mhc", 2, "identity"), "mhc (identity) with 2 streams"),
    ],
)
def test_a_connection_in_words(words, expected):
    assert connection_text(*words) == expected


def test_a_run_of_identity_hc_says_so(train, capsys):
    run_dir = train(connection="ihc")
    assert "training test_vit, mhc (identity) with 4 streams: " in capsys.readouterr().out
    assert json.loads((run_dir / "summary.json").read_text())["constraint"] == "identity"
    assert (run_dir / "report.md").read_text().startswith("# test_vit, mhc (identity) with 4 streams")
