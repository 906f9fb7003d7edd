"""How fast a run trains, what it waits for, and what it needs: `perf/*` in the log."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from mhc_vision.checks import check_number
from mhc_vision.data.machine import share_of_data
from mhc_vision.training.callbacks.step_interval import StepInterval

# dense bf16 in TFLOP/s, from the makers' data sheets; the first name that the card's contains
PEAK_TFLOPS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0}


def peak_flops(name: str, tflops: float | None = None) -> float | None:
    """Floating-point operations per second of the card of this name, or None where that is not known.

    Args:
        name: As `torch.cuda.get_device_name` gives it.
        tflops: Takes the place of the table.
    """
    if tflops is None:
        tflops = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    return None if tflops is None else 1e12 * tflops


class Throughput(Callback):
    """Logs, every so many optimiser steps, figures of these steps; validation and checkpoints are left out.

    - `perf/images_per_s`: of all processes together;
    - `perf/data_wait`: share of the time between the end of a batch and the start of the next, for data and transfer;
    - `perf/memory_gib`: most memory that tensors took on this process's GPU;
    - `perf/mfu`: floating-point operations of the model (three times a forward pass) over the card's dense bf16 peak,
      where the peak is known.

    Without a GPU there is no memory. The clock is read on the host: a GPU lags behind it, which evens out
    over an interval. As the last of the callbacks that work after a batch, it counts their work to the step.

    Args:
        every_n_steps: The interval; best the trainer's `log_every_n_steps`.
        peak_tflops: Dense bf16 peak of the device in TFLOP/s; `None` takes it from a table of cards.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, every_n_steps: int = 50, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None:
            check_number("peak_tflops", peak_tflops, above=0)
        self.peak_tflops = peak_tflops
        self._interval = StepInterval(every_n_steps)
        self._flops_per_image = 0
        self._images = 0
        self._waited = 0.0
        self._batch_ended = 0.0
        self._began = 0.0
        self._interrupted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._interval.start(trainer)
        self._reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves out what happens until the next batch."""
        self._interrupted = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves out what happens until the next batch."""
        self._interrupted = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leaves out what happens until the next batch."""
        self._interrupted = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the wait for a batch."""
        gap = time.perf_counter() - self._batch_ended
        if self._interrupted:
            self._began += gap
            self._interrupted = False
        else:
            self._waited += gap

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a batch, and logs when it is time."""
        images = batch[0]
        self._images += len(images)
        self._batch_ended = time.perf_counter()
        if not self._interval.has_ended(trainer):
            return
        seconds = self._batch_ended - self._began
        images_per_s = self._images / seconds
        figures = {"perf/data_wait": self._waited / seconds}
        if images.is_cuda:
            figures["perf/memory_gib"] = torch.cuda.max_memory_allocated(images.device) / 2**30
            torch.cuda.reset_peak_memory_stats(images.device)
        peak = peak_flops(_device_name(images.device), self.peak_tflops)
        if peak is not None:
            self._flops_per_image = self._flops_per_image or _forward_flops(pl_module, images[:1])
            figures["perf/mfu"] = 3 * self._flops_per_image * images_per_s / peak
        pl_module.log(
            "perf/images_per_s", images_per_s * share_of_data(trainer)[1], prog_bar=True, batch_size=len(images)
        )
        pl_module.log_dict(figures, prog_bar=True, batch_size=len(images))
        self._reset()

    def _reset(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._began = self._batch_ended = time.perf_counter()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _forward_flops(module: LightningModule, image: torch.Tensor) -> int:
    """Of the matrix products and attention for one image; leaves modes and random numbers as they are."""
    with (
        torch.random.fork_rng([image.device] if image.is_cuda else []),
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
    ):
        module(image)
    return counter.get_total_flops()
