"""The steps of `first_gpu_run.py`: commands, limits, and how to read what they print. The limits make 30 minutes."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

PROFILED = {"C": 768, "tokens": 25088}
METRICS = {
    "instructions": ("smsp__inst_executed.sum",),
    "dram_bytes": ("dram__bytes_read.sum", "dram__bytes_write.sum"),
    "us": ("gpu__time_duration.sum",),
}
BOUNDARY, TRITON = "tests/kernels/test_boundary.py", "tests/kernels/test_triton.py"
MODELS, GRAPHS = "tests/models/test_triton_backend.py", "tests/models/test_cuda_graphs.py"
# in memory from PyTorch's cache, what an earlier tensor has written passes for this one's
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def json_lines(output: str) -> list[Row]:
    """What a benchmark prints row by row, also one that was killed."""
    lines = [line for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    return [json.loads(line) for line in lines]


def profiled_kernels(output: str) -> list[Row]:
    """A row for each launch in the CSV of Nsight Compute; times in us, in place of ns."""
    launches: dict[str, Row] = {}
    for line in csv.DictReader(io.StringIO("\n".join(li for li in output.splitlines() if li.startswith('"')))):
        zeros = dict.fromkeys(METRICS, 0.0)
        row = launches.setdefault(line["ID"], {"kernel": line["Kernel Name"], **PROFILED, **zeros})
        for key, names in METRICS.items():
            if line["Metric Name"] in names:
                row[key] += float(line["Metric Value"].replace(",", "")) / (1e3 if key == "us" else 1)
    return list(launches.values())


@dataclass(frozen=True)
class Step:
    """A command: `python` and words, under a tool or not."""

    name: str
    limit_s: int
    words: tuple[str, ...]
    dry: tuple[str, ...] = ()
    """The words of a dry run; none where there is nothing to run without a GPU."""
    tool: tuple[str, ...] = ()
    decisive: bool = False
    """Nothing runs after it has failed."""
    environment: Mapping[str, str] = field(default_factory=dict)
    rows: Callable[[str], list[Row]] = json_lines


def tests(*words: str) -> tuple[str, ...]:
    """Words that run tests."""
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", *words)


def model_step(name: str, limit_s: int, *words: str) -> Step:
    """A step of plain and mHC models, eager unless the words say otherwise."""
    script = ("benchmarks/model_step.py", "--connections", "mhc-4", "--execution", "eager", *words)
    return Step(f"model-{name}", limit_s, script, (*script, "--dry-run"))


def sanitizer(tool: str) -> Step:
    """The boundary's tests under a tool of compute-sanitizer; those before have compiled the kernels."""
    chosen = tests("-x", BOUNDARY, "-k", "results_and_gradients or same_bits")
    under = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9")
    return Step(tool, 110, chosen, tool=under, environment=UNCACHED)


PROFILE = ("benchmarks/kernels.py", "--profile", "--dims", str(PROFILED["C"]), "--num-tokens", str(PROFILED["tokens"]))
NCU = ("ncu", "--csv", "--print-units", "base", "--clock-control", "none", "--profile-from-start", "off")
NCU += ("--metrics", ",".join(name for names in METRICS.values() for name in names))
TIMES = ("benchmarks/kernels.py", "--dims", "384", "768", "1024", "--num-tokens", "25088")
AUTOCAST = ("--precision", "autocast")
VIT_B, VIT_S = ("--models", "vit_base_patch16_224"), ("--models", "vit_small_patch16_224")
STEPS = (
    Step(
        "same-bits",
        150,
        tests("tests/kernels", MODELS, "-k", "same_bits"),
        tests(TRITON, "-k", "same_bits"),
        decisive=True,
    ),
    Step("boundary", 210, tests(BOUNDARY, MODELS), tests(BOUNDARY, "-k", "one and token")),
    Step("graphs", 120, tests(GRAPHS), tests(GRAPHS)),
    Step("triton", 180, tests(TRITON), tests(TRITON, "-k", "test_sinkhorn and 1-1-1")),
    sanitizer("memcheck"),
    sanitizer("racecheck"),
    sanitizer("initcheck"),
    Step("profile", 120, PROFILE, (*PROFILE, "--dry-run"), tool=NCU, rows=profiled_kernels),
    Step("kernels", 180, TIMES, (*TIMES, "--dry-run")),
    model_step("vit-b", 90, *VIT_B),
    model_step("vit-b-autocast", 90, *VIT_B, *AUTOCAST),
    model_step("vit-b-autocast-bf16-streams", 90, *VIT_B, *AUTOCAST, "--stream-dtype", "auto"),
    model_step("vit-s", 60, *VIT_S),
    model_step("vit-s-half-batch", 60, *VIT_S, "--batch-size", "64"),
    model_step("vit-b-compiled", 120, *VIT_B, "--execution", "compiled"),
)
