"""The first half hour on a GPU: each step leaves its record, whatever the others do, and what falls short is said."""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
MACHINE = {"device": "NVIDIA H100 80GB HBM3", "torch": "2.14", "triton": "3.9", "cuda": "13.0"}
BOUNDARY = {"gpu": "H100", "C": 768, "dtype": "bf16", "predicted_us": 1000.0}
PREDICTIONS = {"num_tokens": 25088, "kernels": [], "boundaries": [BOUNDARY], "models": []}


@pytest.fixture
def program(monkeypatch) -> ModuleType:
    """The program, on a machine that has a GPU by its own account."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("first_gpu_run")
    monkeypatch.setattr(module, "describe_machine", lambda: dict(MACHINE))
    return module


@pytest.fixture
def run(program, monkeypatch, tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """Runs steps of (name, code, other fields); exit status and output."""
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps(PREDICTIONS))

    def start(*steps: Any, words: tuple[str, ...] = ()) -> tuple[int, str]:
        made = [program.Step(name, **{"limit_s": 60, "words": ("-c", code), **more}) for name, code, more in steps]
        monkeypatch.setattr(program, "STEPS", tuple(made))
        given = ["--out", str(tmp_path / "out"), "--predictions", str(predictions), *words]
        monkeypatch.setattr(sys, "argv", ["first_gpu_run.py", *given])
        try:
            program.main()
        except SystemExit as stopped:
            return int(stopped.code), capsys.readouterr().out
        return 0, capsys.readouterr().out

    return start


@pytest.fixture
def record(tmp_path) -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads((tmp_path / "out" / f"{name}.json").read_text())


def test_a_step_that_fails_does_not_stop_the_next(run, record):
    status, output = run(("first", "print('why'); raise SystemExit(3)", {}), ("second", "print('{\"ms\": 2}')", {}))
    assert status == 1
    assert "first  failed: exit status 3" in output
    assert record("first")["status"] == "failed"
    assert record("first")["output"] == "why\n"
    second = record("second")
    assert second["status"] == "passed"
    assert second["rows"] == [{"ms": 2}]
    assert second["command"].startswith("python -c")
    assert second["seconds"] >= 0
    assert {"date", "device", "torch", "triton", "step", "limit_s"} <= set(second)


def test_a_step_that_takes_too_long_is_killed_with_what_it_has_started(run, record):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "print('{\"pid\": %d}' % child.pid, flush=True)\n"
        "time.sleep(100)"
    )
    status, _ = run(("slow", code, {"limit_s": 1}), ("next", "", {}))
    assert status == 1
    assert record("slow")["status"] == "timed out"
    # rows that were printed before stay
    (row,) = record("slow")["rows"]
    assert record("next")["status"] == "passed"
    for _ in range(100):
        if not is_running(row["pid"]):
            break
        time.sleep(0.05)
    assert not is_running(row["pid"])


def is_running(pid: int) -> bool:
    """An orphan that nobody waits for stays as a zombie in a container without an init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_starts_again_where_it_was_cut_off(run, record, tmp_path):
    counter = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"
    steps = [("counts", counter, {}), ("fails", "raise SystemExit(1)", {}), ("tool", "", {"tool": ("no-such-tool",)})]
    assert run(*steps)[0] == 1
    assert record("tool")["reason"] == "no-such-tool is not installed"
    steps[2] = ("tool", "", {"tool": ("env",)})
    status, output = run(*steps)
    assert status == 1
    assert "counts  passed before" in output
    assert "fails  failed before" in output
    assert record("tool")["status"] == "passed"
    assert (tmp_path / "runs").read_text() == "x"
    run(*steps, words=("--again", "counts"))
    assert (tmp_path / "runs").read_text() == "xx"


def test_missing_tools_are_skipped_and_no_failure(run, record):
    status, output = run(("sanitizer", "", {"tool": ("no-such-tool",)}))
    assert status == 0
    assert "sanitizer  skipped: no-such-tool is not installed" in output
    assert record("sanitizer")["status"] == "skipped"
    assert record("sanitizer")["command"].startswith("no-such-tool python")


def test_a_tool_that_the_machine_refuses_is_skipped(run, record):
    code = "print('==ERROR== ERR_NVGPUCTRPERM - no permission'); raise SystemExit(1)"
    assert run(("profile", code, {"tool": ("env",)}))[0] == 0
    assert record("profile")["reason"] == "==ERROR== ERR_NVGPUCTRPERM - no permission"


def test_other_bits_stop_the_day(run, tmp_path):
    steps = [("same-bits", "raise SystemExit(1)", {"decisive": True}), ("kernels", "", {})]
    for _ in range(2):
        status, output = run(*steps)
        assert status == 1
        assert "kernels  not run: same-bits decides, and has failed" in output
    assert not (tmp_path / "out" / "kernels.json").exists()


def test_no_step_begins_when_the_minutes_are_used_up(run, tmp_path):
    status, output = run(("late", "", {}), words=("--minutes", "0"))
    assert status == 1
    assert "late  not run: the minutes are used up" in output
    assert not (tmp_path / "out" / "late.json").exists()


def test_a_step_cut_short_by_the_minutes_is_not_finished(program, tmp_path):
    step = program.Step("kernels", 100, ("-c", ""))
    path = tmp_path / "kernels.json"
    for limit, expected in ((20, None), (100, "timed out")):
        path.write_text(json.dumps({"status": "timed out", "limit_s": limit}))
        assert program.finished(path, step) == expected


def test_what_falls_short_is_said(run):
    rows = [{"op": "boundary", "C": 768, "tokens": 25088, "pass": way, "ms": 1.0} for way in ("forward", "backward")]
    _, output = run(("kernels", f"import json\nfor row in {rows}: print(json.dumps(row))", {}))
    assert "1 results have a prediction; short of it:\n  boundary, C = 768, 25088 tokens: 2000 us" in output
    assert "predicted 1000, 2.00x" in output
    status, output = run(("kernels", "print('')", {}), words=("--again", "kernels"))
    assert status == 0
    assert "short of it:\n  none" in output


def test_benchmarks_without_rows_have_failed(program):
    step = program.Step("kernels", 60, ("benchmarks/kernels.py",))
    assert program.verdict(step, 0, "", has_rows=False)["status"] == "failed"
    assert program.verdict(step, 0, "", has_rows=True)["status"] == "passed"


def test_a_dry_run_has_its_own_commands(run, record):
    steps = [("kernels", "raise SystemExit(1)", {"dry": ("-c", "print('{\"C\": 64}')")}), ("memcheck", "", {})]
    status, output = run(*steps, words=("--dry-run",))
    assert status == 0
    assert record("kernels")["rows"] == [{"C": 64}]
    assert "memcheck  skipped: memcheck needs a GPU" in output


def test_no_gpu_is_said(run, program, monkeypatch):
    monkeypatch.setattr(program, "describe_machine", lambda: MACHINE | {"cuda": None})
    assert run(("kernels", "", {}))[0] == 2


def test_results_of_another_device_stay(run, record, program, monkeypatch):
    run(("kernels", "", {"dry": ("-c", "")}), words=("--dry-run",))
    monkeypatch.setattr(program, "describe_machine", lambda: MACHINE | {"device": "NVIDIA A100-SXM4-80GB"})
    assert run(("kernels", "", {}))[0] == 2
    assert record("kernels")["device"] == MACHINE["device"]


def test_missing_predictions_are_said_before_the_work(run, tmp_path):
    assert run(("kernels", "", {}), words=("--predictions", "nowhere.json"))[0] == 2
    assert not (tmp_path / "out").exists()


def test_the_steps_fit_half_an_hour_and_name_what_is_there(program):
    steps = importlib.import_module("gpu_steps").STEPS
    assert sum(step.limit_s for step in steps) <= 30 * 60
    assert steps[0].decisive
    assert len({step.name for step in steps}) == len(steps)
    for word in (word for step in steps for word in (*step.words, *step.dry) if "/" in word):
        assert (ROOT / word).exists(), word


def test_rows_of_a_profile(program):
    steps = importlib.import_module("gpu_steps")
    cells = [
        ("ID", "Kernel Name", "Metric Name", "Metric Unit", "Metric Value"),
        ("0", "forward_kernel", "dram__bytes_read.sum", "byte", "1,000"),
        ("0", "forward_kernel", "dram__bytes_write.sum", "byte", "500"),
        ("0", "forward_kernel", "gpu__time_duration.sum", "nsecond", "330,000"),
        ("0", "forward_kernel", "smsp__inst_executed.sum", "inst", "2,508,800"),
        ("1", "sums_backward_kernel", "gpu__time_duration.sum", "nsecond", "70,000"),
    ]
    text = "==PROF== Connected\n" + "\n".join(",".join(f'"{cell}"' for cell in line) for line in cells)
    first, second = steps.profiled_kernels(text)
    same = {"C": 768, "tokens": 25088}
    assert first == {
        "kernel": "forward_kernel", **same, "instructions": 2508800, "dram_bytes": 1500, "us": 330
    }  # fmt: skip
    assert second["us"] == 70
