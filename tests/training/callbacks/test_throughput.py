import json
import time
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from mhc_vision.training.callbacks import throughput
from mhc_vision.training.callbacks.throughput import peak_flops
from mhc_vision.training.checkpoint import AtomicCheckpointIO


def test_figures_of_each_interval(train):
    run_dir = train()
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    figures = [line for line in lines if "perf/images_per_s" in line]
    assert len(figures) == 3
    for line in figures:
        assert line["perf/images_per_s"] > 0
        assert 0 <= line["perf/data_wait"] < 1
        assert "perf/mfu" not in line


def test_slow_checkpoints_are_no_wait_for_data(train, monkeypatch):
    save = AtomicCheckpointIO.save_checkpoint
    late = 0.0

    def slowly(*args, **kwargs):
        nonlocal late
        save(*args, **kwargs)
        late += 1000

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + late)
    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", slowly)
    monkeypatch.setattr(throughput, "time", clock)
    run_dir = train("--trainer.max_epochs", "3")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rates = [line["perf/images_per_s"] for line in lines if "perf/images_per_s" in line]
    assert late > 0
    # an interval of 8 images with a checkpoint in it would have 0.008 a second
    assert len(rates) == 9
    assert min(rates) > 0.1


def test_agreeing_on_an_interrupt_is_no_wait_for_data(train, monkeypatch):
    late = 0.0

    def slowly(strategy, decision, all=True):
        nonlocal late
        late += 1000
        return decision

    monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", slowly)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + late))
    run_dir = train()
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    waits = [line["perf/data_wait"] for line in lines if "perf/data_wait" in line]
    assert len(waits) == 3
    # 1000 s of agreement would be nearly the whole step
    assert max(waits) < 0.99


def test_a_given_peak_gives_a_share_of_it_on_any_device(train):
    words = ["--trainer.callbacks+=Throughput", "--trainer.callbacks.every_n_steps", "1"]
    run_dir = train(*words, "--trainer.callbacks.peak_tflops", "0.5")
    gmacs = json.loads((run_dir / "summary.json").read_text())["gmacs"]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    figures = [line for line in lines if "perf/images_per_s" in line]
    assert len(figures) == 3
    # of five tokens; PyTorch's counter does not know the fused attention of CPUs
    attention = 2 * 5 * 5 * 64
    for line in figures:
        # two operations a multiply-accumulate, three passes; logged figures are fp32
        expected = 3 * 2 * (1e9 * gmacs - attention) * line["perf/images_per_s"] / 0.5e12
        assert line["perf/mfu"] == pytest.approx(expected, rel=1e-5)


def test_peaks_of_cards():
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("some card") is None
    assert peak_flops("some card", 100.0) == pytest.approx(1e14)
