import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interpreter import prepared_interpreter

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True, scope="session")
def interpreter() -> Iterator[None]:
    with prepared_interpreter():
        yield


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a file of `benchmarks/` as a program, in this process: a fresh one would spend its time on imports."""

    def run(name: str, *words: object) -> None:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        # those with kernels set it
        monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")

    return run
