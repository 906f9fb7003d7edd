"""The verdict in words on each arm, its table and its figure."""

import re

import pytest

from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.report.forest import plot_forest
from mhc_vision.comparison.report.statistics import holm_decisions
from mhc_vision.comparison.report.verdicts import Verdict, verdict_table
from mhc_vision.comparison.report.write import write_report
from mhc_vision.comparison.run.directory import ComparisonDirectory
from mhc_vision.comparison.run.metrics import VALIDATION_TOP1


def _verdict(differences, others=()):
    """Of these points, beside the differences of other arms."""
    decision = holm_decisions([differences, *others])[0]
    return Verdict("mhc", VALIDATION_TOP1, tuple(differences), decision)


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        # mean 0.8, standard deviation 0.1, t(2) at 97.5 % is 4.303: 0.8 ± 0.248
        ([0.7, 0.8, 0.9], "ahead by 0.6 to 1.0 points"),
        ([-0.7, -0.8, -0.9], "behind by 0.6 to 1.0 points"),
        # 0.08 ± 0.0248
        ([0.07, 0.08, 0.09], "ahead by 0.06 to 0.10 points"),
        # 0.2 ± 0.248
        ([0.1, 0.2, 0.3], "cannot be told apart: between 0.0 behind and 0.4 ahead"),
    ],
)
def test_words(differences, words):
    assert _verdict(differences).words == words


def test_more_arms_ask_for_more():
    # p = 0.033 by itself
    differences = [0.22, 0.3, 0.42]
    assert _verdict(differences).words.startswith("ahead by")
    verdict = _verdict(differences, others=[[0.1, -0.1, 0.0]])
    assert verdict.words.startswith("cannot be told apart: between")
    (row,) = verdict_table([verdict])
    assert (row["p"], row["p, Holm"], row["level (%)"]) == ("0.033", "0.065", "97.5")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ((), "no seed that both have finished"),
        ((0.42,), "0.42 points ahead with one seed: no interval exists"),
        ((-0.42,), "0.42 points behind with one seed: no interval exists"),
        ((0.0, 0.0), "no difference in every seed: no spread, so no interval"),
        ((10.0, 10.0), "10.00 points ahead in every seed: no spread, so no interval"),
        ((1.0, float("nan")), "not finite in 1 of 2"),
    ],
)
def test_what_cannot_be_tested_is_said(differences, words):
    verdict = Verdict("mhc", VALIDATION_TOP1, differences, None)
    assert verdict.words == words
    (row,) = verdict_table([verdict])
    assert (row["interval"], row["level (%)"], row["p, Holm"]) == ("-", "-", "-")
    assert row["seeds"] == str(len(differences))


def test_the_figure_names_arms_and_words_and_can_show_what_cannot_be_tested(tmp_path):
    verdicts = [
        _verdict([0.7, 0.8, 0.9]),
        Verdict("$lone", VALIDATION_TOP1, (0.3,), None),
        Verdict("lost", VALIDATION_TOP1, (float("nan"), 1.0), None),
        Verdict("absent", VALIDATION_TOP1, (), None),
    ]
    png, svg = plot_forest(verdicts, "plain", tmp_path / "figures" / "verdict")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    for words in ("mhc", "ahead by 0.6 to 1.0 points", "$lone", "no interval exists", "not finite in 1 of 2", "absent"):
        assert words in text
    assert "top-1, difference to plain (percentage points)" in text


@pytest.fixture
def report(content, tmp_path, write_run):
    """Writes a report whose arms have these top-1 by seed, and returns its text and its page."""

    def write(arms, seeds=(0, 1, 2)):
        configs = {arm: {"config": ["plain.yaml"], "set": {"model.eps": 10.0**-i}} for i, arm in enumerate(arms, 6)}
        matrix = parse_matrix({**content, "arms": configs, "seeds": list(seeds)})
        directory = ComparisonDirectory(tmp_path / "out")
        for cell in matrix.cells:
            directory.begin(cell)
            write_run(directory.run_dir(cell), cell, top1=(0.1, arms[cell.arm][seeds.index(cell.seed)]))
        path = write_report(matrix, directory, "command")
        return path.read_text(), path.with_suffix(".html").read_text()

    return write


def test_the_report_begins_with_figure_and_verdicts(report):
    arms = {"plain": [0.5, 0.6, 0.7], "ahead": [0.507, 0.608, 0.709], "same": [0.501, 0.598, 0.701]}
    text, page = report(arms)
    top = text.split("## Verdict")[1].split("\n## ")[0]
    assert text.index("## Verdict") < text.index("## digits")
    assert "](figures/digits-verdict.png)" in top
    assert "### digits: top-1" in top
    # two arms: 0.8 ± 6.205 * 0.1 / √3 at 97.5 %
    assert re.search(r"\| ahead \|\s+ahead by 0.4 to 1.2 points \|\s+\+0.80 \| \[\+0.44, \+1.16\] \|\s+97.5 \|", top)
    assert re.search(r"\| same +\|\s+cannot be told apart: between 0.4 behind and 0.4 ahead \|", top)
    assert "Holm" in top
    assert "ahead by 0.4 to 1.2 points" in page


def test_one_seed_has_no_interval_and_no_winner(report):
    text, _ = report({"plain": [0.5], "mhc": [0.9]}, seeds=(0,))
    assert "There is one seed: no interval exists" in text
    assert "40.00 points ahead with one seed: no interval exists" in text
    assert "ahead by" not in text
