import json

import pytest

from mhc_vision.demo import main


def test_a_short_demo_reports_all_four_connections_and_replaces_the_last(tmp_path, capsys):
    out = tmp_path / "demo"
    (out / "mhc").mkdir(parents=True)
    (out / "mhc" / "metrics.jsonl").write_text("left over\n")
    main(["--out", str(out), "--max-steps", "2"])
    printed = capsys.readouterr().out
    report = (out / "report.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows[2:]] == ["baseline", "shc", "dhc", "mhc"]
    assert all(row in printed for row in rows)
    assert "figures/loss.png" in report
    assert (out / "figures" / "loss.png").stat().st_size > 1000
    for connection in ("shc", "dhc", "mhc"):
        summary = json.loads((out / connection / "summary.json").read_text())
        assert summary["connection"] == connection
        assert summary["steps"] == 2


def test_a_directory_with_anything_else_in_it_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"thesis\.tex.* expected nothing but an earlier demo"):
        main(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.tex").exists()
