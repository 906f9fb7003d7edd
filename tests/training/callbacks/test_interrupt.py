import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mhc_vision.training.module import ClassificationModule

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads of two processes on the same cores wait for each other


def _command(run_dir: Path, *words: str) -> list[str]:
    return [
        *(sys.executable, "train_imagenet.py", "--config", "configs/digits.yaml", "--model.model_args.depth", "1"),
        *("--data.batch_size", "8", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "500"),
        *("--model.warmup_epochs", "0"),
        *("--trainer.default_root_dir", str(run_dir), *words),
    ]


def _wait_for_steps(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no step was logged"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "length", [["--trainer.max_epochs", "2"], ["--trainer.max_steps", "5"]], ids=lambda words: words[0]
)
def test_ctrl_c_in_the_last_step_lets_the_run_end(train, monkeypatch, length):
    step = ClassificationModule.training_step

    def interrupted(module, batch, batch_idx):
        if module.global_step == module.trainer.estimated_stepping_batches - 1:
            signal.raise_signal(signal.SIGINT)
        return step(module, batch, batch_idx)

    monkeypatch.setattr(ClassificationModule, "training_step", interrupted)
    run_dir = train("--trainer.max_epochs", "3", *length)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == (5 if "--trainer.max_steps" in length else 6)
    assert 0 <= summary["metrics"]["val/top1"] <= 1
    assert (run_dir / "report.md").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path):
    process = subprocess.Popen(
        _command(tmp_path), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_for_steps(process, tmp_path / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    step = checkpoint["global_step"]
    assert errors.strip().splitlines()[-1] == f"mhc-vision: interrupted at step {step}: resume with --ckpt_path {path}"
    # a step boundary: optimiser and schedule have counted the same steps
    assert {int(state["step"]) for state in checkpoint["optimizer_states"][0]["state"].values()} == {step}
    assert checkpoint["lr_schedulers"][0]["last_epoch"] == step

    resumed = subprocess.run(
        _command(tmp_path, "--ckpt_path", str(path), "--trainer.max_steps", str(step + 2)),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == step + 2
