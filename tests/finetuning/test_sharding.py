"""Fine-tuning in several processes that have shards of the weights (FSDP2)."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def _in_processes(words: list[str]) -> None:
    """`finetune` in processes of its own, of which the first one starts the others by its command line."""
    command = [sys.executable, "-W", "ignore", "-m", "mhc_vision", "finetune", *words]
    finished = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("method", "connection"),
    [
        ("lora", "mhc"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("full", "baseline"), ("connections", "dhc")]),
    ],
)
def test_two_processes_train_as_one(
    words: Callable[..., list[str]], finetune: Callable[..., Path], tmp_path: Path, method: str, connection: str
) -> None:
    options = {"method": method, "connection": connection}
    # gradients are summed in another order; AdamW's first steps would divide the smallest by their own size
    epsilon = ["--model.eps", "1e-5"]
    run_dir = finetune("--data.batch_size", "64", *epsilon, **options)
    expected = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    strategy = ["--config", "strategies/fsdp2", "--trainer.strategy.process_group_backend", "gloo"]
    strategy += ["--trainer.strategy.data_parallel_size", "2", "--trainer.devices", "2"]
    _in_processes(words(*strategy, *epsilon, "--trainer.default_root_dir", str(tmp_path / "shards"), **options))
    weights = torch.load(tmp_path / "shards" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5, msg=name)
