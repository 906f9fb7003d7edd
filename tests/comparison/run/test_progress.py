import io

import pytest

from mhc_vision.comparison.run.progress import Progress
from mhc_vision.comparison.run.records import read_record


class _Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        raise AssertionError("the size is patched")


def test_a_terminal_shows_how_far_running_ones_are(matrix, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.comparison.run.progress._REFRESH_S", 0.0)
    monkeypatch.setattr("mhc_vision.comparison.run.progress.shutil.get_terminal_size", lambda *_, **__: (80, 24))
    terminal = _Terminal()
    progress = Progress(terminal)
    progress.begin(4, 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 8}\n{"step": 9}\n{"st')
    progress.show([(matrix.cells[0], tmp_path / "a"), (matrix.cells[1], tmp_path / "b")])
    last = terminal.getvalue().split("\x1b[K")[-1]
    assert last == "[1/4] digits/plain/seed0 step 10 | digits/mhc/seed0 starting"
    monkeypatch.setattr("mhc_vision.comparison.run.progress.shutil.get_terminal_size", lambda *_, **__: (20, 24))
    progress.show([(matrix.cells[0], tmp_path / "a")])
    assert terminal.getvalue().split("\x1b[K")[-1] == "[1/4] digits/plain/"
    # nothing is left on the line of what is printed next
    progress.stopped(matrix.cells[0])
    progress.show([])
    assert terminal.getvalue().endswith(": stopped\n")


def test_a_file_has_lines_only(matrix, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.comparison.run.progress._REFRESH_S", 0.0)
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin(4, 0)
    progress.show([(matrix.cells[0], tmp_path)])
    assert stream.getvalue() == "4 runs\n"


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        ({"val/top1": 0.5, "val/loss": 1.25}, "top-1 50.00 %, loss 1.2500, 7 s"),
        ({"val/top1": 0.5}, "top-1 50.00 %, 7 s"),
        ({"val/top1": 0.5, "test/top1": 0.625, "val/loss": 1.25}, "test top-1 62.50 %, loss 1.2500, 7 s"),
        (
            {"val/top1": 0.5, "val/mean_per_class": 0.4, "test/top1": 0.6, "test/mean_per_class": 0.3},
            "test mean per class 30.00 %, 7 s",
        ),
    ],
)
def test_a_run_that_finished_shows_its_main_metric_and_the_loss_it_has(matrix, tmp_path, write_probe, reached, said):
    write_probe(tmp_path, matrix.cells[0], reached)
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin(1, 0)
    progress.finished(read_record(matrix.cells[0], tmp_path), 7.0)
    assert stream.getvalue().splitlines()[-1] == f"[1/1] digits/plain/seed0: {said}"
