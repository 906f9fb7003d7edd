import json
import time

import pytest

from mhc_vision.training.checkpoint import AtomicCheckpointIO
from mhc_vision.training.device_peak import peak_flops


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

    def slowly(*args, **kwargs):
        time.sleep(0.5)
        save(*args, **kwargs)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", slowly)
    run_dir = train("--trainer.max_epochs", "3")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rates = [line["perf/images_per_s"] for line in lines if "perf/images_per_s" in line]
    # 8 images take milliseconds: with a checkpoint in an interval it would be 16 a second at most
    assert len(rates) == 9
    assert min(rates) > 16


def test_peaks_of_cards():
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("some card") is None
    assert peak_flops("some card", 100.0) == pytest.approx(1e14)
