import io

from mhc_vision.comparison.progress import Progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        raise AssertionError("the size is patched")


def test_a_terminal_shows_how_far_running_ones_are(matrix, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.comparison.progress._REFRESH_S", 0.0)
    monkeypatch.setattr("mhc_vision.comparison.progress.shutil.get_terminal_size", lambda: (80, 24))
    terminal = _Terminal()
    progress = Progress(terminal)
    progress.begin(4, 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 8}\n{"step": 9}\n{"st')
    progress.show([(matrix.cells[0], tmp_path / "a"), (matrix.cells[1], tmp_path / "b")])
    last = terminal.getvalue().split("\x1b[K")[-1]
    assert last == "[1/4] digits/plain/seed0 step 10 | digits/mhc/seed0 starting"
    monkeypatch.setattr("mhc_vision.comparison.progress.shutil.get_terminal_size", lambda: (20, 24))
    progress.show([(matrix.cells[0], tmp_path / "a")])
    assert terminal.getvalue().split("\x1b[K")[-1] == "[1/4] digits/plain/"
    # nothing is left on the line of what is printed next
    progress.stopped(matrix.cells[0])
    progress.show([])
    assert terminal.getvalue().endswith(": stopped\n")


def test_a_file_has_lines_only(matrix, tmp_path, monkeypatch):
    monkeypatch.setattr("mhc_vision.comparison.progress._REFRESH_S", 0.0)
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin(4, 0)
    progress.show([(matrix.cells[0], tmp_path)])
    assert stream.getvalue() == "4 runs\n"
