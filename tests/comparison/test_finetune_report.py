"""The report of fine-tuning runs: several tasks, excluded combinations, probes, and test images."""

import pytest

from mhc_vision.comparison.plan.matrix import parse_matrix
from mhc_vision.comparison.report.write import write_report
from mhc_vision.comparison.run.directory import ComparisonDirectory


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Names of the figures; they are not drawn, which takes most of the time and is tested in test_report.py."""
    names = []

    def files(destination):
        destination.parent.mkdir(exist_ok=True)
        made = [destination.with_name(destination.name + suffix) for suffix in (".png", ".svg")]
        for file in made:
            file.touch()
        return made

    def draw(curves, destination, *, label, over, zero_line=False):
        assert any(curves.values())
        names.append(destination.name)
        return files(destination)

    monkeypatch.setattr("mhc_vision.comparison.report.drawing.plot_seed_bands", draw)
    monkeypatch.setattr(
        "mhc_vision.comparison.report.verdict_blocks.plot_forest", lambda verdicts, _, path: files(path)
    )
    return names


def _method(name: str) -> dict:
    return {"config": ["recipe.yaml"], "set": {"model.method": name}}


@pytest.fixture
def matrix(content):
    content["recipes"] = {name: _method(name) for name in ("full", "connections", "knn")}
    return parse_matrix({**content, "command": "finetune", "exclude": ["connections/plain"]})


@pytest.fixture
def directory(tmp_path):
    return ComparisonDirectory(tmp_path / "out")


@pytest.fixture
def fill(directory, write_run, write_probe):
    """Writes the records of all runs; `test/top1` of seed 0 and 1 is 60 and 70 %, ten points more with connections."""

    def write(matrix):
        directory.claim(matrix)
        for cell in matrix.cells:
            directory.begin(cell)
            top1 = 0.6 + 0.1 * cell.seed + (0.1 if cell.arm == "mhc" else 0.0)
            if cell.task.startswith("knn"):
                write_probe(directory.run_dir(cell), cell, {"val/top1": 0.5, "test/top1": top1})
            else:
                write_run(directory.run_dir(cell), cell, tested={"test/top1": top1, "test/loss": 1.0})

    return write


def _table(text, heading):
    """The rows of the first table below a heading, as dictionaries."""
    below = text.split(f"\n{heading}\n")[1].split("\n#")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def _task(text, task):
    """The part of a report on a task."""
    return "\n" + text.split(f"\n## {task}\n")[1].split("\n## ")[0]


def test_results_are_means_and_ranges_by_task_and_arm(matrix, directory, fill):
    fill(matrix)
    text = write_report(matrix, directory, "command").read_text()
    assert text.index("\n## Results") < text.index("\n## full")
    means = {"plain": "65.00 [60.00, 70.00]", "mhc": "75.00 [70.00, 80.00]"}
    assert _table(text, "## Results") == [
        {"task": "full", "metric (%)": "test/top1", **means},
        {"task": "connections", "metric (%)": "test/top1", **means, "plain": "-"},
        {"task": "knn", "metric (%)": "test/top1", **means},
    ]


def test_datasets_and_methods_have_columns_of_their_own(content, directory, fill):
    content["recipes"] = {name: _method(name) for name in ("lora", "knn")}
    content["datasets"] = {name: {"set": {"data.root": name}} for name in ("pets", "dtd")}
    for command, kind in (("finetune", "method"), ("train", "recipe")):
        content["command"] = command
        matrix = parse_matrix(content)
        fill(matrix)
        rows = _table(write_report(matrix, directory, "command").read_text(), "## Results")
        assert list(rows[0]) == ["dataset", kind, "metric (%)", "plain", "mhc"]
        assert [(row["dataset"], row[kind]) for row in rows] == [
            ("pets", "lora"), ("pets", "knn"), ("dtd", "lora"), ("dtd", "knn"),
        ]  # fmt: skip


def test_one_task_has_no_table_of_tasks(content, directory, fill):
    matrix = parse_matrix(content)
    fill(matrix)
    assert "## Results" not in write_report(matrix, directory, "command").read_text()


def test_excluded_failed_and_missing_runs_are_told_apart(matrix, directory, fill, write_run):
    fill(matrix)
    for cell in matrix.cells:
        if cell.name in ("full/plain/seed1", "knn/plain/seed0", "knn/plain/seed1"):
            directory.fail(cell, 1, "broken")
        elif cell.name == "full/mhc/seed0":
            write_run(directory.run_dir(cell), cell)
    text = write_report(matrix, directory, "command").read_text()
    full, connections, knn = _table(text, "## Results")
    assert (full["plain"], full["mhc"]) == ("60.00 (1 of 2)", "80.00 (1 of 2)")
    assert (connections["plain"], knn["plain"]) == ("-", "failed")
    # no seed has the test of both
    difference = _table(_task(text, "full"), "### Difference to the baseline")
    assert (difference[0]["pairs"], difference[0]["test top-1 (points)"]) == ("1", "-")
    final = _table(_task(text, "full"), "### Final values")
    assert (final[1]["runs"], final[1]["test top-1 (%)"]) == ("2 of 2", "80.00 ± - (1 of 2)")


def test_a_task_of_failures_only_is_in_the_table_of_tasks(matrix, directory, fill):
    fill(matrix)
    for cell in matrix.cells:
        if cell.task == "connections":
            directory.fail(cell, 1, "broken")
    text = write_report(matrix, directory, "command").read_text()
    row = _table(text, "## Results")[1]
    assert row == {"task": "connections", "metric (%)": "-", "plain": "-", "mhc": "failed"}
    assert "No run has finished." in _task(text, "connections")


def test_a_task_without_its_baseline_is_reported_without_differences(matrix, directory, fill, drawn):
    fill(matrix)
    text = _task(write_report(matrix, directory, "command").read_text(), "connections")
    assert "Excluded by the matrix: `plain`. Without `plain` there is nothing that the others" in text
    assert "Difference to the baseline" not in text
    assert "Steps to the baseline" not in text
    assert [row["arm"] for row in _table(text, "### Final values")] == ["mhc"]
    cost = _table(text, "### Cost")[0]
    assert (cost["parameters"], cost["extra (%)"], cost["step time (x)"]) == ("1,000", "-", "-")
    # all of them train
    assert "trainable" not in cost
    # no gap to a baseline
    assert {name for name in drawn if name.startswith("connections")} == {
        "connections-val-top1", "connections-val-loss", "connections-train-loss",
    }  # fmt: skip


def test_an_excluded_arm_is_named_where_the_baseline_stays(content, directory, fill):
    content["recipes"] = {name: _method(name) for name in ("full", "lora")}
    matrix = parse_matrix({**content, "exclude": ["lora/mhc"]})
    fill(matrix)
    text = write_report(matrix, directory, "command").read_text()
    assert "Excluded by the matrix: `mhc`.\n" in _task(text, "lora")
    assert "Difference to the baseline" not in _task(text, "lora")
    files = {(row["task"], row["arm"]): row["files"] for row in _table(text, "## How it was made")}
    assert files["lora", "mhc"] == "excluded"
    assert files["lora", "plain"] == "recipe.yaml, plain.yaml"


def test_a_probe_has_what_it_measured_and_no_curves(matrix, directory, fill, drawn):
    fill(matrix)
    text = _task(write_report(matrix, directory, "command").read_text(), "knn")
    final = _table(text, "### Final values")[0]
    # no losses
    assert list(final) == ["arm", "runs", "test top-1 (%)", "top-1 (%)"]
    assert final["top-1 (%)"] == "50.00 ± 0.00"
    assert _table(text, "### Difference to the baseline")[0]["test top-1 (points)"] == "+10.00 [+10.00, +10.00]"
    cost = _table(text, "### Cost")[0]
    assert (cost["parameters"], cost["trainable"]) == ("1,000", "10")
    assert (cost["images/s"], cost["step time (x)"]) == ("-", "-")
    assert "Steps to the baseline" not in text
    assert "### Curves" not in text
    assert not any(name.startswith("knn") for name in drawn)


def test_test_images_have_final_values_and_no_curve(matrix, directory, fill):
    fill(matrix)
    text = _task(write_report(matrix, directory, "command").read_text(), "full")
    final = _table(text, "### Final values")[0]
    assert list(final) == ["arm", "runs", "test top-1 (%)", "top-1 (%)", "loss", "training loss"]
    assert final["test top-1 (%)"] == "65.00 ± 7.07"
    assert "Test figures are taken once, of the final weights." in text
    steps = {row["final value of"] for row in _table(text, "### Steps to the baseline's final values")}
    assert steps == {"top-1", "loss", "training loss"}


@pytest.mark.parametrize(
    ("reached", "main", "shown"),
    [
        ({"val/top1": 0.5}, "val/top1", "50.00"),
        ({"val/top1": 0.5, "val/mean_per_class": 0.4}, "val/mean_per_class", "40.00"),
        ({"val/top1": 0.5, "val/mean_per_class": 0.4, "test/top1": 0.6}, "test/top1", "60.00"),
        ({"val/top1": 0.5, "test/top1": 0.6, "test/mean_per_class": 0.3}, "test/mean_per_class", "30.00"),
    ],
)
def test_the_main_metric_is_that_of_the_dataset_on_its_most_independent_images(
    content, directory, write_probe, reached, main, shown
):
    content["recipes"] = {name: _method(name) for name in ("linear", "knn")}
    matrix = parse_matrix({**content, "seeds": [0]})
    for cell in matrix.cells:
        directory.begin(cell)
        write_probe(directory.run_dir(cell), cell, reached)
    text = write_report(matrix, directory, "command").read_text()
    row = _table(text, "## Results")[0]
    assert (row["metric (%)"], row["mhc"]) == (main, shown)


def test_curves_of_means_by_class_are_drawn(content, directory, write_run, drawn):
    matrix = parse_matrix(content)
    for cell in matrix.cells:
        directory.begin(cell)
        write_run(directory.run_dir(cell), cell)
        with open(directory.run_dir(cell) / "metrics.jsonl", "a") as log:
            log.write('{"step": 1, "val/mean_per_class": 0.25}\n{"step": 3, "val/mean_per_class": 0.5}\n')
    text = write_report(matrix, directory, "command").read_text()
    assert _table(text, "### Final values")[0]["mean per class (%)"] == "50.00 ± 0.00"
    assert drawn[0] == "digits-val-mean_per_class"


def test_an_arm_whose_log_lacks_a_loss_has_dashes_for_it(content, directory, write_run, drawn):
    matrix = parse_matrix(content)
    for cell in matrix.cells:
        directory.begin(cell)
        write_run(directory.run_dir(cell), cell)
        if cell.arm == "mhc":
            log = directory.run_dir(cell) / "metrics.jsonl"
            log.write_text("".join(line for line in log.open() if "train/loss" not in line))
            summary = directory.run_dir(cell) / "summary.json"
            summary.write_text(summary.read_text().replace("train/loss", "train/lr"))
    text = write_report(matrix, directory, "command").read_text()
    final = {row["arm"]: row["training loss"] for row in _table(text, "### Final values")}
    assert (final["plain"], final["mhc"]) == ("1.7000 ± 0.0000", "-")
    assert _table(text, "### Difference to the baseline")[0]["training loss"] == "-"
    steps = _table(text, "### Steps to the baseline's final values")
    assert [row["steps"] for row in steps if row["final value of"] == "training loss"] == ["4 of 4", "-"]
    # the loss of plain, and no gap
    assert drawn == ["digits-val-top1", "digits-val-loss", "digits-train-loss"]
