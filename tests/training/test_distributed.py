"""Several processes, or several batches a step, train as one with the whole batch and evaluate each image once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mhc_vision.cli import main
from mhc_vision.data.digits import load_digits_split
from mhc_vision.inference.checkpoint_model import load_checkpoint_model
from mhc_vision.layers import maps_at_start
from mhc_vision.models.instruments.contribution import LossDifferences, contribution_of
from mhc_vision.predictions import Predictions
from mhc_vision.training.cli import TrainCLI
from mhc_vision.training.consolidate import consolidate
from mhc_vision.training.param_groups import param_groups
from mhc_vision.training.sharding import shard_model

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SCRIPT = ROOT / "train_imagenet.py"
BATCH = 32
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
DDP = """
trainer:
  strategy:
    class_path: lightning.pytorch.strategies.DDPStrategy
    init_args:
      static_graph: true
      gradient_as_bucket_view: true
      find_unused_parameters: false
      process_group_backend: gloo
"""


def arguments(run_dir: Path, *words: str) -> list[str]:
    """Six steps of a one-block model with mHC, whose maps are no faster than the rest: rounding grows with the rate."""
    return [
        *("--config", str(CONFIGS / "digits.yaml"), "--config", str(CONFIGS / "connections" / "mhc.yaml")),
        *("--model.connection_lr_scale", "1"),
        *("--model.model_args.depth", "1", "--data.total_batch_size", str(BATCH)),
        *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.default_root_dir", str(run_dir), *words),
    ]


def fsdp2(processes: int) -> list[str]:
    strategy = "--trainer.strategy"
    return [
        *("--config", str(CONFIGS / "strategies" / "fsdp2.yaml"), f"{strategy}.data_parallel_size", str(processes)),
        *(f"{strategy}.process_group_backend", "gloo"),
    ]


def pipeline(processes: int, schedule: str, size: int) -> list[str]:
    """Pipelines of four blocks."""
    strategy = "--trainer.strategy"
    return [
        *("--config", str(CONFIGS / "strategies" / "pipeline.yaml"), "--trainer.devices", str(processes)),
        *(f"{strategy}.pipeline_size", str(size), f"{strategy}.schedule", schedule, "--model.model_args.depth", "4"),
        *(f"{strategy}.num_microbatches", "4", f"{strategy}.process_group_backend", "gloo"),
    ]


def outcome(run_dir: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights and the last validation figures."""
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"], json.loads((run_dir / "summary.json").read_text())["metrics"]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """In processes of its own: the first one starts the others by its command line."""
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *words]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """One process with the whole batch."""
    run_dir = tmp_path_factory.mktemp("alone")
    main(arguments(run_dir))
    return outcome(run_dir)


@pytest.fixture(scope="module")
def four_blocks_alone(tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """One process with the whole batch, of a model that a pipeline can cut."""
    run_dir = tmp_path_factory.mktemp("alone")
    main(arguments(run_dir, "--model.model_args.depth", "4"))
    return outcome(run_dir)


def check_same(alone, run_dir: Path) -> None:
    (weights, metrics), (together, shared) = alone, outcome(run_dir)
    assert together.keys() == weights.keys()
    for name, weight in weights.items():
        # gradients are summed in another order, which AdamW's first steps divide by their own size
        torch.testing.assert_close(together[name], weight, rtol=0, atol=1e-4, msg=name)
    # counts over all 360 images, which neither batch nor processes divide evenly
    assert shared["val/top1"] == metrics["val/top1"]
    assert shared["val/top5"] == metrics["val/top5"]
    predictions = Predictions.load(run_dir / "predictions.npz")
    assert predictions.totals().sum() == 360
    assert predictions.right().sum() / 360 == pytest.approx(metrics["val/top1"])
    assert shared["val/loss"] == pytest.approx(metrics["val/loss"], abs=1e-4)
    assert shared["val/contribution"] == pytest.approx(metrics["val/contribution"], abs=1e-4)
    assert shared["val/contribution_se"] == pytest.approx(metrics["val/contribution_se"], abs=1e-4)
    assert shared["train/grad_norm"] == pytest.approx(metrics["train/grad_norm"], rel=1e-4)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ddp(alone, processes, tmp_path):
    (tmp_path / "ddp.yaml").write_text(DDP)
    words = ["--config", str(tmp_path / "ddp.yaml"), "--trainer.devices", str(processes)]
    finished = run(arguments(tmp_path / "run", *words))
    assert finished.returncode == 0, finished.stderr
    check_same(alone, tmp_path / "run")


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_fsdp2(alone, processes, tmp_path):
    words = [*fsdp2(processes), "--trainer.devices", str(processes)]
    finished = run(arguments(tmp_path / "run", *words))
    assert finished.returncode == 0, finished.stderr
    check_same(alone, tmp_path / "run")


@pytest.mark.parametrize("words", [fsdp2(2), pipeline(2, "1F1B", 2)], ids=["fsdp2", "pipeline"])
def test_what_the_maps_of_a_model_in_parts_contribute(words, tmp_path):
    moving = ["--model.connection_lr_scale", "100", "--model.warmup_epochs", "0", "--model.lr", "0.01"]
    # in a validation after which training goes on, and after the last one
    times = ["--trainer.callbacks+=MapContribution", "--trainer.callbacks.every_validation", "true"]
    times += ["--trainer.max_epochs", "1", "--trainer.val_check_interval", "2"]
    finished = run(arguments(tmp_path / "run", *words, "--trainer.devices", "2", *moving, *times))
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["val/contribution"] for line in lines if "val/contribution" in line}
    assert sorted(logged) == [1, 2]
    images, labels = load_digits_split()[1].tensors
    images = (images / 255 - 0.5) / 0.5
    model = load_checkpoint_model(tmp_path / "run" / "checkpoints" / "last.ckpt").model.eval()
    differences = LossDifferences("ce")
    with torch.no_grad():
        logits = model(images)
        with maps_at_start(model):
            differences.add(logits, model(images), labels)
    by_hand = contribution_of(differences.moments())
    assert abs(by_hand.value) > 1e-3
    metrics = outcome(tmp_path / "run")[1]
    # logits of batches of another size: fp32 sums in another order
    assert metrics["val/contribution"] == pytest.approx(by_hand.value, abs=1e-5)
    assert logged[2] == pytest.approx(by_hand.value, abs=1e-5)
    assert metrics["val/contribution_se"] == pytest.approx(by_hand.standard_error, abs=1e-5)


def test_shards_become_one_file(alone, tmp_path):
    words = [*fsdp2(2), "--trainer.devices", "2", "--trainer.strategy.save_distributed_checkpoint", "true"]
    finished = run(arguments(tmp_path / "run", *words))
    assert finished.returncode == 0, finished.stderr
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    consolidate(checkpoints / "last.ckpt", tmp_path / "file.ckpt")
    content = torch.load(tmp_path / "file.ckpt", weights_only=True)
    for name, weight in alone[0].items():
        torch.testing.assert_close(content["state_dict"][name], weight, rtol=0, atol=1e-4, msg=name)
    model = load_checkpoint_model(tmp_path / "file.ckpt").model
    # the optimiser's state, too, whose parameters have names where those of one process have numbers
    optimizer = torch.optim.AdamW(
        [{"params": list(group["params"])} for group in param_groups(model, lr=1.0, weight_decay=1.0)]
    )
    optimizer.load_state_dict(content["optimizer_states"][0])
    for name, parameter in model.named_parameters():
        moments = content["optimizer_states"][0]["state"][f"model.{name}"]
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moments["exp_avg"])


@pytest.mark.parametrize(
    ("processes", "schedule", "size"),
    [
        (2, "DualPipeV", 2),
        pytest.param(2, "1F1B", 2, marks=pytest.mark.slow),
        pytest.param(2, "Interleaved1F1B", 2, marks=pytest.mark.slow),
        pytest.param(2, "ZBVZeroBubble", 2, marks=pytest.mark.slow),
        pytest.param(4, "1F1B", 4, marks=pytest.mark.slow),
        # two pipelines with half of the images each
        pytest.param(4, "ZBVZeroBubble", 2, marks=pytest.mark.slow),
    ],
)
def test_pipeline(four_blocks_alone, processes, schedule, size, tmp_path):
    finished = run(arguments(tmp_path / "run", *pipeline(processes, schedule, size)))
    assert finished.returncode == 0, finished.stderr
    check_same(four_blocks_alone, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["images_per_step"], summary["num_processes"]) == (BATCH, processes)
    # as one of a single process, whose weights it has
    whole = ["--model.model_args.depth", "4", "--ckpt_path", str(tmp_path / "run" / "checkpoints" / "last.ckpt")]
    figures = TrainCLI(["validate", *arguments(tmp_path / "one", *whole)]).trainer.callback_metrics
    assert float(figures["val/top1"]) == pytest.approx(outcome(tmp_path / "run")[1]["val/top1"])


@pytest.mark.slow
def test_accumulated_batches_in_a_pipeline(four_blocks_alone, tmp_path):
    words = ["--trainer.accumulate_grad_batches", "2", "--trainer.limit_train_batches", "6"]
    finished = run(arguments(tmp_path / "run", *pipeline(2, "1F1B", 2), *words))
    assert finished.returncode == 0, finished.stderr
    check_same(four_blocks_alone, tmp_path / "run")


def test_accumulated_batches(alone, tmp_path):
    words = ["--trainer.accumulate_grad_batches", "2", "--trainer.limit_train_batches", "6"]
    main(arguments(tmp_path / "run", *words))
    check_same(alone, tmp_path / "run")


def test_two_nodes_under_torchrun(alone, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.strategy", "ddp"]
    torchrun = [*(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    nodes = [
        subprocess.Popen(
            [*torchrun, "--node-rank", str(rank), str(SCRIPT), *arguments(tmp_path / "run", *words)], env=ENVIRONMENT
        )
        for rank in range(2)
    ]
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    check_same(alone, tmp_path / "run")


@pytest.mark.parametrize(
    ("processes", "words", "message"),
    [
        (1, ["--trainer.callbacks+=EMA"], "EMA: got a model sharded by ModelParallelStrategy, expected DDP"),
        # the next test has the message, in this process
        pytest.param(
            *(2, ["--trainer.strategy.tensor_parallel_size", "2"], "tensor_parallel_size: got 2, expected 1"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused(tmp_path, processes, words, message):
    finished = run(arguments(tmp_path / "run", *fsdp2(1), "--trainer.devices", str(processes), *words))
    assert finished.returncode == 2
    assert message in finished.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_tensor_parallel_mesh_is_refused():
    mesh: Any = {"tensor_parallel": SimpleNamespace(size=lambda: 2)}
    with pytest.raises(ValueError, match="tensor_parallel_size: got 2, expected 1"):
        shard_model(nn.Identity(), mesh)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_processes_agree_that_a_run_has_diverged(strategy, tmp_path):
    words = fsdp2(2) if strategy == "fsdp2" else ["--trainer.strategy", "ddp"]
    words += ["--trainer.devices", "2", "--model.lr", "1e30", "--model.warmup_epochs", "0"]
    finished = run(arguments(tmp_path / "run", *words))
    assert finished.returncode == 1
    assert "error: the training loss is not finite from step 2 to step 6, where the run ends" in finished.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
