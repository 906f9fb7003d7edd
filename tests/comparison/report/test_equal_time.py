"""A report of a comparison at equal time: sentences, table and figures, from records by hand."""

import pytest

from mhc_vision.comparison.plan.equal_time import StepTime, with_equal_time
from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.report.conclusions import conclusions
from mhc_vision.comparison.report.statistics import detectable_difference, holm_decisions
from mhc_vision.comparison.report.verdicts import Verdict
from mhc_vision.comparison.report.write import write_report
from mhc_vision.comparison.run.directory import ComparisonDirectory
from mhc_vision.comparison.run.metrics import VALIDATION_TOP1

AHEAD, BEHIND, SAME = (0.7, 0.8, 0.9), (-0.7, -0.8, -0.9), (0.1, -0.1, 0.03)


def _verdict(differences):
    decision = holm_decisions([differences])[0] if len(differences) > 1 else None
    return Verdict("mhc", VALIDATION_TOP1, tuple(differences), decision)


@pytest.mark.parametrize(
    ("at_steps", "at_time", "sentence"),
    [
        (AHEAD, AHEAD, "`mhc`: ahead at equal steps and at equal time."),
        (BEHIND, BEHIND, "`mhc`: behind at equal steps and at equal time."),
        (AHEAD, BEHIND, "`mhc`: ahead at equal steps, behind at equal time."),
        (AHEAD, SAME, "`mhc`: ahead at equal steps only; these 3 seeds could have shown {} points at equal time."),
        (SAME, AHEAD, "`mhc`: ahead at equal time only; these 3 seeds could have shown {} points at equal steps."),
        (SAME, BEHIND, "`mhc`: behind at equal time only; these 3 seeds could have shown {} points at equal steps."),
        (
            SAME,
            SAME,
            "`mhc`: no difference at equal steps and at equal time; these 3 seeds could have shown {} points at equal "
            "steps and {} points at equal time.",
        ),
        (AHEAD, None, "`mhc`: ahead."),
        (SAME, None, "`mhc`: no difference; these 3 seeds could have shown {} points."),
        (AHEAD, (0.5,), "`mhc`: ahead at equal steps, not tested at equal time."),
    ],
)
def test_an_arm_is_concluded_in_a_sentence(at_steps, at_time, sentence):
    # standard deviation of SAME
    shown = f"{detectable_difference(0.10149, 3, 0.95):.2f}"
    times = [] if at_time is None else [_verdict(at_time)]
    assert conclusions([_verdict(at_steps)], times) == [sentence.format(shown, shown)]


TOP1 = {"plain": (0.5, 0.6, 0.7), "mhc": (0.507, 0.608, 0.709), "plain-time-mhc": (0.508, 0.607, 0.709)}


def _write(content, tmp_path, write_run, times, **of_run):
    matrix = with_equal_time(parse_matrix({**content, "seeds": [0, 1, 2], "equal_time": ["mhc"]}), times)
    directory = ComparisonDirectory(tmp_path / "out")
    for cell in matrix.cells:
        directory.begin(cell)
        longer = {"steps": 6} if "time" in cell.arm else {}
        gmacs = 0.5 if cell.arm == "mhc" else 0.25
        top1 = (0.1, TOP1[cell.arm][cell.seed])
        write_run(directory.run_dir(cell), cell, top1=top1, gmacs=gmacs, **longer, **of_run)
    return write_report(matrix, directory, "command", times).read_text()


def _rows(text, heading):
    lines = text.split(f"### {heading}\n")[1].split("\n##")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}


@pytest.fixture
def times():
    return {"digits": {"mhc": StepTime(1.5, 0.31, 0.2, 20, 4, 2, 1)}}


@pytest.mark.usefixtures("undrawn")
def test_a_gain_at_equal_steps_that_time_would_buy_is_said_to_be_one(content, tmp_path, write_run, times):
    text = _write(content, tmp_path, write_run, times, images_per_step=128)
    assert "`mhc`: ahead at equal steps only; these 3 seeds could have shown" in text
    # the baseline at equal time is nothing that is claimed
    assert list(_rows(text, "digits: top-1")) == ["mhc"]
    row = _rows(text, "digits: top-1 at equal time")["mhc"]
    assert row["verdict"].startswith("cannot be told apart")
    # -0.1, 0.1, 0 points
    assert row["difference (points)"] == "+0.00"
    assert row["could show (points)"] == f"{detectable_difference(0.1, 3, 0.95):.2f}"
    assert "](figures/digits-verdict-equal-time.png)" in text
    assert "plain-time-mhc" not in _rows(text, "Steps to the baseline's final values")


def test_the_price_is_that_of_the_measured_steps(content, tmp_path, write_run, times):
    text = _write(content, tmp_path, write_run, times, images_per_step=128)
    rows = _rows(text, "Price")
    base, mhc, timed = rows["plain"], rows["mhc"], rows["plain-time-mhc"]
    assert (base["step (ms)"], mhc["step (ms)"], timed["step (ms)"]) == ("200", "300", "200")
    assert (mhc["step time (x)"], mhc["steps"], timed["steps"]) == ("1.500", "4", "6")
    # 4 steps of 0.3 s, 6 of 0.2 s
    assert (base["seconds"], mhc["seconds"], timed["seconds"]) == ("0.8", "1.2", "1.2")
    # 2 x 3 x 0.5e9 multiply-accumulates x 128 images x 4 steps
    assert (mhc["training FLOPs"], timed["training FLOPs"]) == ("1.54e+12", "1.15e+12")
    assert "measured side by side" in text
    for name in ("val-top1-over-seconds", "val-top1-over-flops", "val-loss-over-seconds", "val-loss-over-flops"):
        figure = (tmp_path / "out" / "figures" / f"digits-{name}.svg").read_text()
        assert ("seconds of training steps" if "seconds" in name else "training FLOPs") in figure


@pytest.mark.usefixtures("undrawn")
def test_without_equal_time_the_price_is_from_the_logs(matrix, tmp_path, write_run):
    directory = ComparisonDirectory(tmp_path / "out")
    for cell in matrix.cells:
        directory.begin(cell)
        speed = 50.0 if cell.arm == "mhc" else 100.0
        write_run(directory.run_dir(cell), cell, images_per_s=speed, images_per_step=20)
    text = write_report(matrix, directory, "command").read_text()
    row = _rows(text, "Price")["mhc"]
    assert (row["step (ms)"], row["step time (x)"], row["seconds"]) == ("400", "2.000", "1.6")
    assert "what the runs logged" in text
    assert "equal time" not in text


@pytest.mark.usefixtures("undrawn")
def test_records_of_earlier_versions_have_no_price(matrix, tmp_path, write_run):
    directory = ComparisonDirectory(tmp_path / "out")
    for cell in matrix.cells:
        directory.begin(cell)
        write_run(directory.run_dir(cell), cell)
    text = write_report(matrix, directory, "command").read_text()
    assert "### Price" not in text
    assert "over-seconds" not in text
