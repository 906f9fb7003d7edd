"""The model of time agrees with the figures that were worked out by hand, and says where a measurement disagrees."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def roofline(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("roofline")


def machine_code(kernel: str, registers: int, instructions: float, **more: Any) -> dict[str, Any]:
    """A row of kernel_resources.py --budget."""
    row = {"kernel": kernel, "function": kernel, "n": 4, "dtype": "bf16", "target": "sm_90", "C": 768, "tokens": 16}
    row |= {"registers": registers, "stack_bytes": 0, "shared_bytes": 0, "instructions_per_token": instructions}
    return row | more


def moved(kernel: str, loads: float, stores: float, plan: int, dim: int = 768, again: float = 0.0) -> dict[str, Any]:
    """A row of traffic.py."""
    counts = {"loads": loads, "stores": stores, "plan": plan, "shared": 1.0, "again": again}
    return {"C": dim, "dtype": "bf16", "kernel": kernel, **counts}


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "warps", "blocks"),
    # as CUDA's occupancy calculator has them for sm_90
    [
        (254, 0, 4, 2),
        (168, 0, 4, 3),
        (127, 0, 4, 4),
        (96, 0, 4, 5),
        (16, 0, 4, 16),
        (96, 100 * 1024, 4, 2),
        (168, 0, 8, 1),
    ],
)
def test_blocks_of_an_sm(roofline, registers, shared_bytes, warps, blocks):
    row = machine_code("merge", registers, 0, shared_bytes=shared_bytes, warps=warps)
    assert roofline.blocks_per_sm(row, roofline.GPUS["H100"]) == blocks


def test_time_of_a_kernel_is_that_of_its_instructions_or_of_its_bytes(roofline):
    resources = [machine_code("boundary", 254, 6798, function="forward_kernel")]
    (kernel,) = roofline.predict(resources, [moved("forward_kernel", 5.0, 4.1, 9)])["kernels"][:1]
    # 6,798 instructions of 25,088 tokens over 132 x 4 x 1.755e9 slots; 9.1 x 1,536 bytes over 3 TB/s
    assert kernel["issue_us"] == pytest.approx(184, abs=0.5)
    assert kernel["memory_us"] == pytest.approx(117, abs=0.5)
    assert kernel["blocks_per_sm"] == 2
    assert kernel["predicted_us"] == pytest.approx(1.8 * kernel["issue_us"])
    assert kernel["bound_by"] == "issue"
    few = [machine_code("boundary", 56, 680, function="forward_kernel")]
    kernel = roofline.predict(few, [moved("forward_kernel", 5.0, 4.1, 9)])["kernels"][0]
    assert (kernel["bound_by"], kernel["predicted_us"]) == ("memory", kernel["memory_us"])


def test_one_block_of_four_warps_takes_twice_the_time(roofline):
    rows = [machine_code("k", registers, 5000, shared_bytes=shared) for registers, shared in ((254, 0), (254, 200_000))]
    two, one = (roofline.kernel_row(moved("k", 1, 1, 2), row, "bf16", "H100")["predicted_us"] for row in rows)
    assert one == pytest.approx(2 * two)


def test_what_is_read_again_comes_from_memory_where_l2_does_not_hold_it(roofline):
    row, gpu = moved("k", 5.0, 5.5, 10, again=4.0), roofline.GPUS["H100"]
    # 4 x 1,536 bytes of each token in flight, in half of 50 MB
    assert roofline.bytes_per_token(row, 4000, gpu) == 10.5 * 1536
    assert roofline.bytes_per_token(row, 4100, gpu) == 14.5 * 1536


def test_boundary_and_step(roofline):
    resources = [
        machine_code("boundary", 254, 6798, function="forward_kernel"),
        *(
            machine_code(f"boundary, {other}", 254, 9999, function="forward_kernel")
            for other in ("entry", "scaled", "identity", "rms")
        ),
    ]
    predictions = roofline.predict(resources, [moved("forward_kernel", 5.0, 4.1, 9)])
    # no machine code was given for other GPUs, nor another dtype
    assert {row["gpu"] for row in predictions["boundaries"]} == {"H100", "H200"}
    h100 = predictions["boundaries"][0]
    # a small op takes as long as its launch
    assert h100["predicted_us"] == pytest.approx(1.8 * 184.1 + roofline.SMALL_OPS * roofline.SMALL_US, abs=1)
    step = predictions["models"][0]
    assert (step["model"], step["streams"]) == ("vit_base_patch16_224", "bf16")
    # 17.5 GMACs an image, three passes, 350 TFLOP/s
    assert step["plain_ms"] == pytest.approx(3 * 2 * 17.5e9 * 128 / 350e12 * 1e3, rel=0.01)
    added = 24 * (h100["predicted_us"] * 197 / 196 - 8 * 1536 * 128 * 197 / 3e12 * 1e6) / 1e3
    assert step["predicted_ratio"] == pytest.approx(1 + added / step["plain_ms"])


def test_kernels_with_other_than_one_row_are_named(roofline):
    twice = [machine_code(name, 96, 2700, function="k") for name in roofline.KERNELS[:2]]
    with pytest.raises(ValueError, match="resources: got boundary, boundary backward, streams for k at C = 768"):
        roofline.predict(twice, [moved("k", 1, 1, 2)])
    with pytest.raises(ValueError, match="resources: got none for merge at C = 768"):
        roofline.predict(twice, [moved("merge", 1, 1, 2)])


def test_widths_without_machine_code_have_no_prediction(roofline):
    resources = [machine_code("boundary", 96, 2700, function="k")]
    predictions = roofline.predict(resources, [moved("k", 9.0, 5.0, 14), moved("k", 9.0, 5.0, 14, dim=1024)])
    assert {row["C"] for row in predictions["boundaries"]} == {768}


def test_command(roofline, run_script, tmp_path, capsys):
    resources, traffic, predictions = (tmp_path / f"{name}.json" for name in ("resources", "traffic", "predictions"))
    resources.write_text(json.dumps({"kernels": [machine_code("boundary", 96, 2700, function="k")]}))
    traffic.write_text(json.dumps({"rows": [moved("k", 9.0, 5.0, 14)]}))
    run_script("roofline.py", "--resources", resources, "--traffic", traffic, "--json", predictions)
    assert "| H100 | 768 | bf16 | k |" in capsys.readouterr().out
    measured = {"device": "NVIDIA H100 80GB HBM3", "rows": [
        {"op": "boundary", "C": 768, "tokens": 25088, "pass": way, "ms": 0.1} for way in ("forward", "backward")
    ]}  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kernels.json").write_text(json.dumps(measured))
    run_script("roofline.py", "--predictions", predictions, "--measured", tmp_path / "run")
    assert "| boundary, C = 768, 25088 tokens | us |" in capsys.readouterr().out


def test_measurements_that_fall_short(roofline):
    measurements = importlib.import_module("measurements")
    common = {"gpu": "H100", "dtype": "bf16", "C": 768}
    kernel = {
        **common,
        "kernel": "k",
        "predicted_us": 330.0,
        "bytes_per_token": 14000.0,
        "instructions_per_token": 2700,
    }
    model = {
        "gpu": "H100",
        "model": "vit_base_patch16_224",
        "streams": "bf16",
        "batch_size": 128,
        "predicted_ratio": 1.2,
    }
    predictions = {"num_tokens": 25088, "boundaries": [common], "kernels": [kernel], "models": [model]}
    step = {"mode": "training", "compiled": False, "connection": "mhc-4", "precision": "bf16", "batch_size": 128}
    step["stream_dtype"] = "model"
    profiled = {"kernel": "k", "C": 768, "tokens": 25088, "us": 400.0, "dram_bytes": 25088 * 14000, "instructions": 1e8}
    rows = [profiled, {**step, "model": "vit_base_patch16_224", "ratio_to_plain": 1.3, "ms": 80.0}]
    rows += [{**step, "model": "vit_small_patch16_224", "ratio_to_plain": 1.4, "ms": ms, "batch_size": batch}
             for batch, ms in ((128, 30.0), (64, 28.0))]  # fmt: skip
    # nothing is predicted of streams in fp32
    rows += [{**rows[1], "precision": "autocast", "stream_dtype": dtype} for dtype in ("model", "auto")]
    compared = measurements.compare(predictions, [{"device": "NVIDIA H100 80GB HBM3", "rows": rows}])
    short = {(row["what"], row["unit"]) for row in compared if row["short"]}
    assert short == {
        ("k, C = 768", "instructions a token"),
        ("vit_base_patch16_224, mhc-4, bf16, bf16 streams, batch 128", "added to plain"),
        ("vit_base_patch16_224, mhc-4, autocast, bf16 streams, batch 128", "added to plain"),
        # half the batch in the same time: the step waits for its launches
        ("vit_small_patch16_224, mhc-4, training, batch 64", "of the full batch"),
    }
    assert len(compared) == 6


@pytest.mark.parametrize("device", ["NVIDIA H100 PCIe", "NVIDIA GeForce RTX 5090", "x86_64 CPU"])
def test_other_devices_have_no_prediction(roofline, device):
    measurements = importlib.import_module("measurements")
    assert measurements.gpu_of({"boundaries": [{"gpu": "H100"}]}, device) is None
