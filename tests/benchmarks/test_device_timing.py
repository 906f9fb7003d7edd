"""The clock of the benchmarks times the GPU, however long the CPU takes to launch; on a GPU that is played here."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Gpu:
    """Two clocks in milliseconds: the CPU's, and when the work ends that it has enqueued."""

    def __init__(self) -> None:
        self.cpu = self.done = 0.0

    def launch(self, takes: float, launching: float = 0.0) -> None:
        self.cpu += launching
        self.done = max(self.done, self.cpu) + takes

    def call(self, kernels: int, takes: float, launching: float, waits: bool = False) -> Callable[[], None]:
        """A function of so many kernels; one that waits reads a result."""

        def function() -> None:
            for _ in range(kernels):
                self.launch(takes, launching)
            if waits:
                self.cpu = max(self.cpu, self.done)

        return function


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    played = Gpu()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = max(played.done, played.cpu)

        def query(self) -> bool:
            return played.cpu >= self.at

        def synchronize(self) -> None:
            played.cpu = max(played.cpu, self.at)

        def elapsed_time(self, end: "Event") -> float:
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: played.launch(cycles / 2e6))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: empty(1))
    return played


@pytest.fixture
def timing(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("device_timing")


def test_launches_do_not_count(gpu, timing):
    # 20 kernels of 10 us, each launched in 200 us
    call = gpu.call(20, 0.01, launching=0.2)
    assert timing.time_ms([call, gpu.call(1, 3.0, 0.01)], repeats=3) == pytest.approx([0.2, 3.0])


def test_steps_are_timed_as_their_user_waits_for_them(gpu, timing):
    assert timing.time_ms([gpu.call(20, 0.01, launching=0.2)], repeats=3, held=False)[0] == pytest.approx(4.01)


def test_what_cannot_be_held_is_said(gpu, timing):
    with pytest.warns(UserWarning, match="its time counts, too"):
        (found,) = timing.time_ms([gpu.call(20, 0.01, launching=0.2, waits=True)], repeats=1)
    assert found == pytest.approx(4.01)


def test_without_a_gpu_the_cpu_is_timed(timing, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert timing.time_ms([lambda: None], repeats=2)[0] >= 0
