import re

import pytest

from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.report.write import write_report
from mhc_vision.comparison.run.directory import ComparisonDirectory


@pytest.fixture
def directory(tmp_path):
    return ComparisonDirectory(tmp_path / "out")


def _fill(directory, matrix, write_run, **of_mhc):
    directory.claim(matrix)
    for cell in matrix.cells:
        directory.begin(cell)
        if cell.arm == "plain":
            # the seeds differ
            write_run(directory.run_dir(cell), cell, top1=(0.4, 0.5 + 0.1 * cell.seed), loss=(1.0, 0.8))
        else:
            write_run(directory.run_dir(cell), cell, **of_mhc)


def _row(text, heading, first):
    """The cells of a row of the table below a heading, by column."""
    lines = text.split(f"### {heading}\n")[1].split("\n### ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    row = next(row for row in table if row[: len(first)] == first)
    return dict(zip(table[0], row, strict=True))


def test_figures_by_hand(matrix, directory, write_run):
    _fill(directory, matrix, write_run, top1=(0.6, 0.7), loss=(0.8, 0.9), total=1100, images_per_s=50.0)
    text = write_report(matrix, directory, "mhc-vision compare tiny.yaml --out out").read_text()
    final = _row(text, "Final values", ["plain"])
    # 50 and 60 %: standard deviation 7.07 points
    assert (final["runs"], final["top-1 (%)"], final["loss"]) == ("2 of 2", "55.00 ± 7.07", "0.8000 ± 0.0000")
    difference = _row(text, "Difference to the baseline", ["mhc"])
    # 20 and 10 points: 15 ± 12.706 * 7.0711 / √2
    assert difference["top-1 (points)"] == "+15.00 [-48.53, +78.53]"
    assert difference["loss"] == "+0.1000 [+0.1000, +0.1000]"
    steps = "Steps to the baseline's final values"
    # 0.6 after two of four steps is as good as 0.5 and 0.6 at the end
    top1 = _row(text, steps, ["top-1", "mhc"])
    assert (top1["steps"], top1["speed-up"], top1["speed-up, seed by seed"]) == ("2 of 4", "2.00x", "2.00x, 2.00x")
    assert _row(text, steps, ["top-1", "plain"])["speed-up"] == "1.00x"
    assert _row(text, steps, ["loss", "mhc"])["steps"] == "2 of 4"
    cost = _row(text, "Cost", ["mhc"])
    assert (cost["parameters"], cost["extra (%)"], cost["GMACs"]) == ("1,100", "10.00", "0.25")
    assert (cost["images/s"], cost["step time (x)"]) == ("50.0 ± 0.0", "2.00 ± 0.00")
    assert "speeds are rough" in text
    assert text.count("](figures/digits-") == 5
    curve = (directory.path / "figures" / "digits-val-top1.svg").read_text()
    assert "top-1 (%)" in curve
    assert "fraction" not in curve


@pytest.mark.parametrize(("travel", "unmoved"), [(0.009, True), (0.2, False)])
def test_maps_that_stayed_at_their_start_are_said_to_be_a_plain_residual(matrix, directory, write_run, travel, unmoved):
    _fill(directory, matrix, write_run, travel=travel)
    text = write_report(matrix, directory, "command").read_text()
    maps = _row(text, "Maps", ["mhc"])
    assert maps["travel/res"] == f"{travel:.4f} ± 0.0000"
    assert maps["gain/composite_backward"] == "1.5000 ± 0.0000"
    assert ("The maps of `mhc` stayed within 0.01" in text) == unmoved


@pytest.mark.parametrize(
    ("contribution", "is_plain"),
    [((0.0012, 0.0001), True), ((0.02, 0.011), True), ((0.02, 0.004), False), ((-0.02, 0.004), False)],
)
def test_arms_that_lose_nothing_without_their_maps_are_called_plain(
    matrix, directory, write_run, contribution, is_plain
):
    _fill(directory, matrix, write_run, contribution=contribution)
    text = write_report(matrix, directory, "command").read_text()
    maps = _row(text, "Maps", ["mhc"])
    # columns that no run has logged are left out
    assert maps == {
        "arm": "mhc",
        "val/contribution": f"{contribution[0]:.4f} ± 0.0000",
        "streams/memory": "0.7900 ± 0.0000",
    }
    assert ("Setting the maps of `mhc` back to their start cost no validation loss in any run" in text) == is_plain
    # nothing is known of how far they have come
    assert "stayed within" not in text


def test_runs_that_logged_nothing_of_maps_have_no_table_of_them(matrix, directory, write_run):
    _fill(directory, matrix, write_run)
    assert "### Maps" not in write_report(matrix, directory, "command").read_text()


def test_what_is_never_reached_is_said(matrix, directory, write_run):
    _fill(directory, matrix, write_run, top1=(0.1, 0.55), loss=(2.0, 1.5))
    text = write_report(matrix, directory, "command").read_text()
    steps = "Steps to the baseline's final values"
    assert _row(text, steps, ["loss", "mhc"])["steps"] == "not reached of 4"
    assert _row(text, steps, ["top-1", "mhc"])["speed-up, seed by seed"] == "1.00x, -"


def test_one_seed_has_no_deviation_and_no_interval(content, directory, write_run):
    matrix = parse_matrix({**content, "seeds": [3]})
    _fill(directory, matrix, write_run)
    text = write_report(matrix, directory, "command").read_text()
    assert "There is one seed" in text
    assert _row(text, "Final values", ["mhc"])["top-1 (%)"] == "75.00 ± -"
    assert _row(text, "Difference to the baseline", ["mhc"])["loss"] == "-0.3000 [-]"


def test_failed_runs_are_listed_and_the_rest_is_reported(matrix, directory, write_run):
    _fill(directory, matrix, write_run)
    failed = matrix.cells[1]
    (directory.run_dir(failed) / "summary.json").unlink()
    directory.fail(failed, 1, "CUDA out of memory | really")
    text = write_report(matrix, directory, "command").read_text()
    assert "digits/mhc/seed0 |           1 | CUDA out of memory \\| really |" in text
    assert _row(text, "Final values", ["mhc"])["runs"] == "1 of 2"
    # only the seed that both have
    assert _row(text, "Difference to the baseline", ["mhc"])["pairs"] == "1"


@pytest.mark.parametrize("arm", ["plain", "mhc"])
def test_an_arm_without_a_finished_run_has_dashes(matrix, directory, write_run, arm):
    _fill(directory, matrix, write_run)
    for cell in matrix.cells:
        if cell.arm == arm:
            directory.fail(cell, 1, "broken")
    text = write_report(matrix, directory, "command").read_text()
    assert _row(text, "Final values", [arm])["loss"] == "-"
    assert _row(text, "Difference to the baseline", ["mhc"])["pairs"] == "0"
    assert _row(text, "Cost", [arm])["parameters"] == "-"


def test_a_report_of_failures_only(matrix, directory):
    for cell in matrix.cells:
        directory.begin(cell)
        directory.fail(cell, 2, "broken")
    assert "No run has finished." in write_report(matrix, directory, "command").read_text()


def test_the_html_needs_no_other_file(matrix, directory, write_run):
    _fill(directory, matrix, write_run)
    report = write_report(matrix, directory, "compare 'a & b.yaml'")
    page = report.with_suffix(".html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page
    assert "a &amp; b.yaml" in page
    # the same tables
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert "50.00 ± -" not in cells
    assert _row(report.read_text(), "Final values", ["plain"])["top-1 (%)"] in cells


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: (run / "summary.json").unlink(),
            r"without records of 1 of 4 runs \(digits/plain/seed0\), expected all; run the",
        ),
        (lambda run: (run / "metrics.jsonl").unlink(), r"got no metrics\.jsonl"),
        (lambda run: (run / "summary.json").write_text("{"), r"summary\.json is no JSON"),
        (lambda run: (run / "summary.json").write_text("{}"), r"summary\.json: got no steps, epochs, seed"),
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 0}\n'), "metric: got 'val/top1', expected one that"),
    ],
)
def test_missing_records_are_named_and_nothing_is_written(matrix, directory, write_run, damage, message):
    _fill(directory, matrix, write_run)
    damage(directory.run_dir(matrix.cells[0]))
    with pytest.raises(ValueError, match=message):
        write_report(matrix, directory, "command")
    assert not (directory.path / "report.md").exists()


def test_records_of_another_seed_are_refused(matrix, directory, write_run):
    _fill(directory, matrix, write_run)
    write_run(directory.run_dir(matrix.cells[0]), matrix.cells[2])
    with pytest.raises(ValueError, match="got seed 1, expected seed 0"):
        write_report(matrix, directory, "command")


def test_runs_that_diverged_are_named_and_never_averaged(matrix, directory, write_run):
    nan = float("nan")
    _fill(directory, matrix, write_run)
    lost = next(cell for cell in matrix.cells if cell.arm == "mhc" and cell.seed == 1)
    reached = {"val/not_finite": 7.0}
    write_run(directory.run_dir(lost), lost, top1=(0.5, 0.0), loss=(1.0, nan), travel=nan, tested=reached)
    text = write_report(matrix, directory, "command").read_text()
    assert _row(text, "Runs that diverged", ["digits/mhc/seed1"])["not finite"] == "val/loss, 7 images of val"
    final = _row(text, "Final values", ["mhc"])
    assert (final["runs"], final["loss"]) == ("2 of 2, 1 diverged", "not finite in 1 of 2")
    assert _row(text, "Difference to the baseline", ["mhc"])["loss"] == "not finite in 1 of 2"
    assert _row(text, "Maps", ["mhc"])["travel/res"] == "not finite in 1 of 1"
    assert "The maps of `mhc` stayed" not in text
    figure = (directory.path / "figures" / "digits-val-loss.svg").read_text()
    assert "mhc (1 of 2 not finite)" in figure


def test_what_a_baseline_that_diverged_reached_is_not_looked_for(matrix, directory, write_run):
    _fill(directory, matrix, write_run)
    for cell in matrix.cells:
        if cell.arm == "plain":
            write_run(directory.run_dir(cell), cell, loss=(1.0, float("inf")))
    text = write_report(matrix, directory, "command").read_text()
    assert _row(text, "Steps to the baseline's final values", ["loss", "mhc"])["steps"] == "-"
    assert _row(text, "Steps to the baseline's final values", ["top-1", "mhc"])["steps"] == "4 of 4"


def test_a_task_of_which_one_seed_diverged_has_no_mean_in_the_overview(content, directory, write_run):
    recipes = {"digits": ["recipe.yaml"], "cifar": {"config": ["recipe.yaml"], "set": {"model.eps": 1e-7}}}
    matrix = parse_matrix({**content, "recipes": recipes})
    _fill(directory, matrix, write_run)
    lost = next(cell for cell in matrix.cells if cell.task == "cifar" and cell.arm == "mhc")
    # as recorded before rows that are not finite counted as wrong
    write_run(directory.run_dir(lost), lost, top1=(0.5, float("nan")))
    text = write_report(matrix, directory, "command").read_text()
    overview = text.split("## Results")[1].split("\n## ")[0]
    assert "not finite in 1 of 2" in overview
