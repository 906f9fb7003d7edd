import io
import sys

import pytest

from mhc_vision.command_line.messages import shown_notes
from mhc_vision.progress import ShortBar, duration, note
from tests.helpers.terminal import Terminal

FIGURES = ("loss 1.25", "1,052 images/s", "val 93.1 %")


@pytest.mark.parametrize(
    ("columns", "figures"),
    [
        (100, "loss 1.25, 1,052 images/s, val 93.1 %"),
        (80, "loss 1.25, 1,052 images/s"),
        (64, "loss 1.25"),
        (49, "loss 1.25 1,052 img/s val 93.1 %"),
        (40, "loss 1.25 1,052 img/s"),
        (26, "loss 1.25"),
        (15, ""),
    ],
)
def test_a_bar_fits_its_terminal(monkeypatch, columns, figures):
    # tqdm leaves the last column free
    terminal = Terminal(monkeypatch, columns + 1)
    with ShortBar(desc="epoch 12/300", total=200) as bar:
        bar.figures = FIGURES
        bar.n = 90
        shown = str(bar)
    terminal.written()
    assert len(shown) <= columns
    head = "epoch 12/300  45%|" if columns >= 64 else "12/300 45% "
    assert shown.startswith(head)
    assert shown.endswith(figures)
    assert ("90/200" in shown) == (columns >= 64)


def test_a_bar_without_an_end_says_how_far_it_is(monkeypatch):
    terminal = Terminal(monkeypatch, 80)
    with ShortBar(desc="measuring", unit="images") as bar:
        assert str(bar) == "measuring ..."
        bar.n = 32
        assert str(bar).startswith("measuring 32, 00:00")
    terminal.written()


def test_nothing_is_left_of_a_bar_and_a_file_has_none(monkeypatch):
    terminal = Terminal(monkeypatch, 80)
    assert list(ShortBar(range(3), desc="counting")) == [0, 1, 2]
    assert terminal.written().rsplit("\r", 2)[-2].strip() == ""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(ShortBar(range(3), desc="counting")) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.3, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (12600, "3.5 h")]
)
def test_times_are_said_in_words(seconds, said):
    assert duration(seconds) == said


def test_notes_are_for_commands(capsys):
    note("before")
    with shown_notes():
        note("loading a model")
    note("after")
    assert capsys.readouterr().err == "loading a model\n"
