"""Ctrl-C while a command imports, and readers of its output that leave."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mhc_vision import command_start
from mhc_vision.cli import main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "mhc_vision", "train"],
        ["-m", "mhc_vision.demo"],
        ["train_imagenet.py"],
        ["mhc-vision", "evaluate", "test_vit", "."],
    ],
    ids=lambda words: " ".join(words),
)
def test_an_interrupt_of_the_imports_is_one_line(tmp_path, words):
    # what takes seconds to import is stopped at its beginning
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "mhc-vision").write_text("from mhc_vision.cli import main\nmain()\n")
    script = {"train_imagenet.py": ROOT / "train_imagenet.py", "mhc-vision": tmp_path / "mhc-vision"}
    finished = subprocess.run(
        [sys.executable, *(str(script.get(word, word)) for word in words)],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "mhc-vision: interrupted\n")


def test_other_programs_see_the_interrupt(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    with pytest.raises(KeyboardInterrupt), command_start.interrupted_in_words():
        raise KeyboardInterrupt


def run_without_a_reader(monkeypatch: pytest.MonkeyPatch, command: Callable[[], None]) -> int:
    """Status of a command whose standard output leads nowhere."""
    reading, writing = os.pipe()
    os.close(reading)
    # in the test itself: pytest sets it again before each
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w"))
    with pytest.raises(SystemExit) as stopped:
        command()
    # as Python does at its end
    sys.stdout.flush()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def fails() -> None:
    with command_start.readers_may_leave():
        print("a line")
        sys.exit(2)


def prints_a_table() -> None:
    with command_start.readers_may_leave():
        for _ in range(10000):
            print("a line of a table")


@pytest.mark.parametrize(
    ("command", "status"),
    [(lambda: main([]), 141), (lambda: main(["--help"]), 141), (prints_a_table, 141), (fails, 2)],
    ids=["usage", "help", "table", "failure"],
)
def test_a_reader_that_leaves_ends_a_command_without_a_traceback(monkeypatch, command, status):
    assert run_without_a_reader(monkeypatch, command) == status


def test_the_pipes_of_others_are_their_own_business():
    with pytest.raises(BrokenPipeError), command_start.readers_may_leave():
        raise BrokenPipeError
