"""The cost of the instruments, at a tiny size."""

import json


def test_shares_of_the_training_time(tmp_path, run_script):
    run_script("instruments.py", "--steps", "15", "--batch-size", "2", "--json", tmp_path / "shares.json")
    rows = {row["instrument"]: row for row in json.loads((tmp_path / "shares.json").read_text())["rows"]}
    assert {"Throughput", "LossSpikes", "JsonlLogger", "ConnectionMonitor", "all instruments"} == set(rows)
    parts = [row["percent"] for name, row in rows.items() if name != "all instruments"]
    assert 0 < rows["all instruments"]["percent"] < 100
    assert abs(sum(parts) - rows["all instruments"]["percent"]) < 1e-6
