"""What watching a run costs: share of the training time that its instruments and its log take.

    python benchmarks/instruments.py                          # mHC, n = 4
    python benchmarks/instruments.py --connection baseline

A small ViT (dim 192, depth 6, patch 4) trains on noise of 32 x 32 as `mhc-vision train` does, with the callbacks and
the log of a run, at every 10th step (the default is every 50th), and the time spent inside each of them is added up.
On a CPU nothing runs beside them, so that time is what they cost.
"""

import argparse
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.layers import CONNECTIONS
from mhc_vision.training.callbacks.connection_monitor import ConnectionMonitor
from mhc_vision.training.callbacks.loss_spikes import LossSpikes
from mhc_vision.training.callbacks.throughput import Throughput
from mhc_vision.training.cli import TrainCLI
from mhc_vision.training.jsonl_logger import JsonlLogger

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WATCHED = (Throughput, LossSpikes, ConnectionMonitor, JsonlLogger)
METHODS = ("on_train_batch_start", "on_train_batch_end", "log_metrics")
WARMUP_STEPS = 5


class Clock(Callback):
    """Times the batches after the warm-up."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.steps = 0
        self._began = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock when the warm-up is over."""
        now = time.perf_counter()
        if batch_idx + 1 == WARMUP_STEPS:
            self._began = now
            self.seconds.clear()
        elif batch_idx + 1 > WARMUP_STEPS:
            self.steps += 1
            self.seconds["all"] = now - self._began


def measure(connection: str, steps: int, batch_size: int) -> list[dict[str, object]]:
    """Seconds and share of the training time in each instrument, and in all of them."""
    seconds: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as run_dir:
        cli = TrainCLI(_words(connection, steps, batch_size, run_dir), run=False)
        clock = Clock(seconds)
        for watched in (*cli.trainer.callbacks, *cli.trainer.loggers):
            if isinstance(watched, WATCHED):
                for name in METHODS:
                    if hasattr(watched, name):
                        setattr(watched, name, _timed(getattr(watched, name), type(watched).__name__, seconds))
        cli.trainer.callbacks.append(clock)
        cli.trainer.fit(cli.model, cli.datamodule)
    total = seconds.pop("all")
    seconds["all instruments"] = sum(seconds.values())
    return [
        {"instrument": name, "ms_per_step": 1e3 * value / clock.steps, "percent": 100 * value / total}
        for name, value in seconds.items()
    ]


def _timed(method: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = method(*args, **kwargs)
        seconds[name] += time.perf_counter() - began
        return result

    return timed


def _words(connection: str, steps: int, batch_size: int, run_dir: str) -> list[str]:
    return [
        *("--config", str(CONFIGS / "cifar10.yaml"), "--config", str(CONFIGS / "connections" / f"{connection}.yaml")),
        *("--config", str(CONFIGS / "debug.yaml"), "--data.num_images", str(steps * batch_size)),
        *("--data.batch_size", str(batch_size), "--trainer.limit_train_batches", str(steps)),
        *("--trainer.log_every_n_steps", "10", "--trainer.limit_val_batches", "0"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.enable_checkpointing", "false", "--trainer.default_root_dir", run_dir),
    ]


def main() -> None:
    """Measures and prints one JSON line per instrument."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connection", default="mhc", choices=("baseline", *CONNECTIONS))
    parser.add_argument("--steps", type=int, default=205, help=f"the first {WARMUP_STEPS} are not counted")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=Path, help="also write the rows, with versions, to this file")
    options = parser.parse_args()
    if options.steps <= WARMUP_STEPS:
        parser.error(f"--steps: got {options.steps}, expected more than {WARMUP_STEPS}")
    rows = measure(options.connection, options.steps, options.batch_size)
    for row in rows:
        print(json.dumps(row))
    if options.json is not None:
        record = {
            "date": time.strftime("%Y-%m-%d"),
            "device": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "connection": options.connection,
            "steps": options.steps - WARMUP_STEPS,
            "batch_size": options.batch_size,
            "rows": rows,
        }
        replace_text(options.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
