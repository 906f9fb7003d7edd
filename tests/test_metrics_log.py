import json
import math

import pytest

from mhc_vision.metrics_log import read_metric


def _write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_reads_one_metric_and_skips_lines_without_it(tmp_path):
    records = [{"step": 0, "a": 1.0}, {"step": 0, "b": 9.0}, {"step": 1, "a": "nan"}]
    steps, values = read_metric(_write(tmp_path / "metrics.jsonl", records), "a")
    assert steps == [0, 1]
    assert values[0] == 1.0
    assert math.isnan(values[1])


def test_steps_logged_again_after_a_resume_replace_the_earlier_ones(tmp_path):
    records = [{"step": step, "a": value} for step, value in [(0, 0.0), (1, 1.0), (2, 2.0), (1, 10.0), (3, 30.0)]]
    assert read_metric(_write(tmp_path / "metrics.jsonl", records), "a") == ([0, 1, 3], [0.0, 10.0, 30.0])


def test_a_metric_never_logged_and_a_broken_line_are_named(tmp_path):
    path = _write(tmp_path / "metrics.jsonl", [{"step": 0, "a": 1.0}])
    with pytest.raises(ValueError, match="metric: got 'b', expected one that"):
        read_metric(path, "b")
    path.write_text('{"step": 0, "a": 1.0}\n{"step"')
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        read_metric(path, "a")
