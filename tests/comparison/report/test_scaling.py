"""Gains over model size and compute, from tasks by hand that differ in size or length."""

import re

import pytest

from mhc_vision.comparison.plan.equal_time import StepTime, with_equal_time
from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.report.results import read_results
from mhc_vision.comparison.report.scaling import over_compute, over_size, task_scales
from mhc_vision.comparison.report.write import write_report
from mhc_vision.comparison.run.directory import ComparisonDirectory

SIZES, LENGTHS = (1000, 4000), (100, 400)
# points that mHC is ahead of the baseline by, in the mean over seeds
GAINS = {(1000, 100): 1.0, (1000, 400): 2.0, (4000, 100): 3.0, (4000, 400): 5.0}


pytestmark = pytest.mark.usefixtures("undrawn")


def _recipe(**options):
    return {"config": ["recipe.yaml"], "set": {key.replace("__", "."): value for key, value in options.items()}}


@pytest.fixture
def fill(content, tmp_path, write_run):
    """Records of a matrix with a task for each size and length; returns the matrix and its directory."""

    def write(seeds=(0, 1), equal_time=False, **more):
        content["recipes"] = {
            f"dim{size}-steps{steps}": _recipe(model__dim=size, trainer__max_steps=steps, **more.get(f"of{size}", {}))
            for size in SIZES
            for steps in LENGTHS
        }
        keys = {"seeds": list(seeds), **({"equal_time": ["mhc"]} if equal_time else {})}
        matrix = parse_matrix({**content, **keys})
        times = {task: {"mhc": StepTime(1.5, 0.3, 0.2, 20, 4, 2, 1)} for task in matrix.tasks} if equal_time else {}
        matrix = with_equal_time(matrix, times) if equal_time else matrix
        directory = ComparisonDirectory(tmp_path / "out")
        for cell in matrix.cells:
            directory.begin(cell)
            size, steps = map(int, re.findall(r"\d+", cell.task))
            # the second seed is two points further
            gain = (GAINS[size, steps] + (1.0 if cell.seed else -1.0)) / 100 if cell.arm == "mhc" else 0.0
            gain += 0.02 if "time" in cell.arm else 0.0
            run_dir = directory.run_dir(cell)
            of_task = {"total": size, "steps": steps, "gmacs": 1e-3 * size, "images_per_step": 8}
            write_run(run_dir, cell, top1=(0.1, 0.5 + gain), **of_task)
        return matrix, directory, times

    return write


def test_lines_over_size_share_their_steps_and_lines_over_compute_their_size(fill):
    matrix, directory, _ = fill()
    scales = task_scales(matrix, read_results(matrix, directory))
    short, long = over_size(scales, lambda scale: scale.gains)["mhc"]
    assert (short.name, short.places) == ("100 steps", (1000, 4000))
    assert (long.name, long.places) == ("400 steps", (1000, 4000))
    assert [gain.mean for gain in short.gains] == pytest.approx([1.0, 3.0])
    assert [gain.mean for gain in long.gains] == pytest.approx([2.0, 5.0])
    # two differences, two points apart: standard deviation √2, t(1) at 97.5 % is 12.706
    assert short.gains[0].half_width == pytest.approx(12.706, rel=1e-4)
    small, large = over_compute(scales, lambda scale: scale.gains)["mhc"]
    assert (small.name, large.name) == ("1,000 parameters", "4,000 parameters")
    # 2 x 3 x multiply-accumulates x 8 images x steps
    assert small.places == pytest.approx((6e9 * 1.0 * 8 * 100, 6e9 * 1.0 * 8 * 400))
    assert [gain.mean for gain in large.gains] == pytest.approx([3.0, 5.0])


def test_the_report_draws_and_tables_them(fill):
    matrix, directory, _ = fill()
    text = write_report(matrix, directory, "command").read_text()
    section = text.split("## Scaling")[1].split("\n## ")[0]
    assert "](figures/scaling-size.png)" in section
    assert "](figures/scaling-compute.png)" in section
    assert re.search(
        r"\| dim4000-steps400 \|\s+4,000 \|\s+4 \|\s+400 \|\s+7.68e\+13 \|\s+\+5.00 \[-7.71, \+17.71\] \|", section
    )
    figure = (directory.path / "figures" / "scaling-size.svg").read_text()
    for words in ("mhc", "100 steps", "400 steps", "parameters of plain", "gain in top-1 (points)"):
        assert words in figure


def test_gains_at_equal_time_have_figures_of_their_own(fill):
    matrix, directory, times = fill(equal_time=True)
    text = write_report(matrix, directory, "command", times).read_text()
    assert "](figures/scaling-size-equal-time.png)" in text
    # two points less than at equal steps
    assert re.search(r"\| dim1000-steps100 \|.*\| \+1.00 \[.*\| -1.00 \[", text)
    figure = (directory.path / "figures" / "scaling-compute-equal-time.svg").read_text()
    assert "gain in top-1 at equal time (points)" in figure
    # it is no arm that gains
    assert "plain-time-mhc" not in figure


def test_tasks_on_other_data_are_no_larger_ones(fill):
    matrix, directory, _ = fill(of4000={"data__root": "elsewhere"})
    scales = task_scales(matrix, read_results(matrix, directory))
    assert over_size(scales, lambda scale: scale.gains) == {}
    # longer runs on the same data are
    assert len(over_compute(scales, lambda scale: scale.gains)["mhc"]) == 2


def test_one_seed_is_drawn_without_intervals(fill):
    matrix, directory, _ = fill(seeds=(0,))
    text = write_report(matrix, directory, "command").read_text()
    assert re.search(r"\| dim4000-steps400 \|.*\| \+4.00 \|", text)
    assert (directory.path / "figures" / "scaling-size.svg").is_file()


def test_tasks_that_differ_in_neither_have_no_section(content, tmp_path, write_run):
    content["recipes"] = {"one": _recipe(model__lr=1), "two": _recipe(model__lr=2)}
    matrix = parse_matrix(content)
    directory = ComparisonDirectory(tmp_path / "out")
    for cell in matrix.cells:
        directory.begin(cell)
        write_run(directory.run_dir(cell), cell)
    assert "## Scaling" not in write_report(matrix, directory, "command").read_text()
