"""Pipelines in simulated time: known bubbles, counted transfers, and the order in which real processes do things."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCHEDULES = ("1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV")
SPLIT = ("ZBVZeroBubble", "DualPipeV")


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("pipeline")


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_bubbles_are_those_of_the_papers(pipeline: ModuleType, processes: int) -> None:
    microbatches = 2 * processes
    steps = {
        name: pipeline.simulate(actions, pipeline.Seconds(1, 1, 1))
        for name, actions in pipeline.schedules_of(processes, microbatches).items()
    }
    # 1F1B idles for p - 1 of m + p - 1 passes there and back; two stages in turn halve that (arXiv 2104.04473)
    idle = processes - 1
    assert steps["1F1B"].bubble == pytest.approx(idle / (microbatches + idle))
    assert steps["Interleaved1F1B"].bubble == pytest.approx(idle / 2 / (microbatches + idle / 2))
    # gradients of weights fill what is left but for (p - 1) / 2 passes (arXiv 2401.10241); DualPipeV's pairs send late
    assert steps["ZBVZeroBubble"].seconds == pytest.approx(3 * microbatches + idle / 2)
    assert steps["DualPipeV"].seconds == pytest.approx(3 * microbatches + idle)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_pass_runs_once_and_every_border_is_crossed_there_and_back(pipeline: ModuleType, name: str) -> None:
    processes, microbatches = 4, 8
    actions = pipeline.schedules_of(processes, microbatches)[name]
    halves = {"B": ("I", "W")}
    passes = sorted(
        (action.stage, half, action.microbatch)
        for mine in actions.values()
        for action in mine
        for half in halves.get(action.kind, (action.kind,))
    )
    stages = processes if name == "1F1B" else 2 * processes
    assert passes == sorted((stage, kind, m) for stage in range(stages) for kind in "FIW" for m in range(microbatches))
    # the middle of a V is within one process
    borders = stages - 1 - (name in SPLIT)
    step = pipeline.simulate(actions, pipeline.Seconds(1, 1, 1, transfer=0.25))
    assert step.transfers == 2 * microbatches * borders
    assert step.transferring == pytest.approx(0.25 * step.transfers)
    assert 0 < step.hidden < 1


def test_a_transfer_is_hidden_where_the_receiver_has_something_to_do(pipeline: ModuleType) -> None:
    action = pipeline.Action
    first = [action(0, "F", 0), action(0, "F", 1), action(0, "B", 0), action(0, "B", 1)]
    second = [action(1, "F", 0), action(1, "B", 0), action(1, "F", 1), action(1, "B", 1)]
    step = pipeline.simulate({0: first, 1: second}, pipeline.Seconds(1, 1, 1, transfer=0.5))
    # 1F0 waits, 1F1 finds its input there, 0B0 and 0B1 wait
    assert [start for _, start, _ in step.actions[0]] == [0, 1, 5, 8.0]
    assert [start for _, start, _ in step.actions[1]] == [1.5, 2.5, 4.5, 5.5]
    assert (step.transfers, step.transferring, step.exposed) == (4, 2, 1.5)
    assert step.hidden == 0.25


def test_an_order_in_which_processes_wait_for_each_other_is_refused(pipeline: ModuleType) -> None:
    action = pipeline.Action
    actions = {0: [action(0, "B", 0), action(0, "F", 0)], 1: [action(1, "F", 0), action(1, "B", 0)]}
    with pytest.raises(ValueError, match=r"actions: got an order in which \{0: '0B0', 1: '1F0'\} wait for ever"):
        pipeline.simulate(actions, pipeline.Seconds(1, 1, 1))


@pytest.mark.parametrize("name", ["1F1B", "DualPipeV"])
def test_real_processes_do_what_the_simulation_says(pipeline: ModuleType, name: str) -> None:
    seconds = pipeline.Seconds(0.001, 0.001, 0.001)
    real = pipeline.run_schedule(name, 2, seconds)
    assert real.order() == pipeline.simulate(pipeline.schedules_of(2, pipeline.MICROBATCHES)[name], seconds).order()


def test_the_table(run_script: Callable[..., None], tmp_path: Path) -> None:
    words = ["--model", "vit_tiny_patch16_224", "--batch-size", 1, "--streams", 1, 4, "--processes", 2, "--rounds", 1]
    run_script("pipeline.py", *words, "--link", 10, "--latency", 5, "--json", tmp_path / "pipeline.json")
    rows = json.loads((tmp_path / "pipeline.json").read_text())["rows"]
    assert [(row["streams"], row["schedule"]) for row in rows] == [(n, name) for n in (1, 4) for name in SCHEDULES]
    for row in rows:
        # 197 tokens of 192 channels in fp32, four microbatches there and back over one border
        size = 197 * 192 * 4 * row["streams"]
        assert row["transfer_ms"] == pytest.approx(5e-3 + size / 1e7)
        crossings = 3 if row["schedule"] == "Interleaved1F1B" else 1 + (row["schedule"] in SPLIT)
        assert row["sent_mb"] == pytest.approx(size * 8 * crossings / 1e6)
