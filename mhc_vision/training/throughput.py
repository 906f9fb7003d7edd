"""How fast a run trains, what it waits for, and what it needs: `perf/*` in the log."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from mhc_vision.training.device_peak import peak_flops


class Throughput(Callback):
    """Logs, every so many batches, figures of these batches.

    - `perf/images_per_s`: of all processes together;
    - `perf/data_wait`: share of the time between the end of a batch and the start of the next, for data and transfer;
    - `perf/memory_gib`: most memory that tensors took on this process's GPU;
    - `perf/mfu`: floating-point operations of the model (three times a forward pass) over the card's dense bf16 peak,
      where the card is known.

    Without a GPU there is no memory and no MFU. The clock is read on the host: a GPU works behind it, which evens out
    over an interval.

    Args:
        every_n_batches: The interval; best the trainer's `log_every_n_steps`.
    """

    def __init__(self, every_n_batches: int = 50) -> None:
        self.every_n_batches = every_n_batches
        self._flops_per_image = 0
        self._images = 0
        self._waited = 0.0
        self._batch_ended = 0.0
        self._began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._reset()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves validation out."""
        self._reset()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the wait for a batch."""
        self._waited += time.perf_counter() - self._batch_ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a batch, and logs when it is time."""
        images = batch[0]
        self._images += len(images)
        self._batch_ended = time.perf_counter()
        if (trainer.fit_loop.total_batch_idx + 1) % self.every_n_batches:
            return
        seconds = self._batch_ended - self._began
        images_per_s = self._images / seconds
        figures = {
            "perf/images_per_s": images_per_s * trainer.world_size,
            "perf/data_wait": self._waited / seconds,
        }
        if images.is_cuda:
            figures["perf/memory_gib"] = torch.cuda.max_memory_allocated(images.device) / 2**30
            torch.cuda.reset_peak_memory_stats(images.device)
            peak = peak_flops(torch.cuda.get_device_name(images.device))
            if peak is not None:
                self._flops_per_image = self._flops_per_image or _forward_flops(pl_module, images[:1])
                figures["perf/mfu"] = 3 * self._flops_per_image * images_per_s / peak
        pl_module.log_dict(figures, batch_size=len(images))
        self._reset()

    def _reset(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._began = self._batch_ended = time.perf_counter()


def _forward_flops(module: LightningModule, image: torch.Tensor) -> int:
    """Of the matrix products and attention for one image; leaves modes and random numbers as they are."""
    with torch.random.fork_rng(devices=[image.device]), FlopCounterMode(display=False) as counter, torch.no_grad():
        module(image)
    return counter.get_total_flops()
