"""Two and four processes train as one does with the whole batch, and evaluate every image once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BATCH = 32
STRATEGY = """
trainer:
  strategy:
    class_path: lightning.pytorch.strategies.DDPStrategy
    init_args:
      static_graph: true
      gradient_as_bucket_view: true
      find_unused_parameters: false
      process_group_backend: gloo
"""


def run(folder: Path, processes: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights after six steps, and the last validation figures."""
    folder.mkdir()
    (folder / "ddp.yaml").write_text(STRATEGY if processes > 1 else "trainer: {}\n")
    command = [
        *(sys.executable, "-W", "ignore", "train_imagenet.py"),
        *("--config", "configs/digits.yaml", "--config", "configs/connections/mhc.yaml"),
        *("--config", str(folder / "ddp.yaml"), "--trainer.devices", str(processes)),
        *("--model.model_args.depth", "1", "--data.total_batch_size", str(BATCH)),
        *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.default_root_dir", str(folder / "run")),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    checkpoint = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"], json.loads((folder / "run" / "summary.json").read_text())["metrics"]


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_as_one_does_with_the_whole_batch(processes, tmp_path):
    (weights, metrics), (together, shared) = run(tmp_path / "one", 1), run(tmp_path / "several", processes)
    for name, weight in weights.items():
        # gradients are summed in another order, which AdamW's first steps divide by their own size
        torch.testing.assert_close(together[name], weight, rtol=0, atol=1e-4, msg=name)
    # counts over all 360 images, which neither batch nor processes divide evenly
    assert shared["val/top1"] == metrics["val/top1"]
    assert shared["val/top5"] == metrics["val/top5"]
    assert shared["val/loss"] == pytest.approx(metrics["val/loss"], abs=1e-4)
