"""Exponential moving average of the weights, which validation and checkpoints then use."""

import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from mhc_vision.checks import check_number


class EMA(WeightAveraging):
    """Averages the weights after every optimiser step: a = d·a + (1 - d)·w, with d = min(decay, (1 + t) / (10 + t)).

    The decay warms up with the number t of averaged steps, so the average follows the weights from the first step on.
    Validation, tests and `state_dict` of checkpoints have the average; the weights themselves are in the checkpoint's
    `current_model_state`.

    Args:
        decay: The decay that is reached, e.g. 0.9999; in [0, 1).

    Raises:
        ValueError: If the decay is out of range, or when training starts with a sharded model, which it cannot average.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        check_number("decay", decay, at_least=0, below=1)
        self.decay = decay
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the average."""
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError(
                "EMA: got a model sharded by ModelParallelStrategy, expected DDP; leave EMA out or train with DDP"
            )
        with warnings.catch_warnings():
            # our configure_model shards, and does so only where the line above refuses
            warnings.filterwarnings("ignore", message=".*overrides the configure_model callback.*")
            super().setup(trainer, pl_module, stage)

    @torch.no_grad()
    def _average(self, averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        steps = float(num_averaged)
        weight = 1.0 - min(self.decay, (1.0 + steps) / (10.0 + steps))
        torch._foreach_lerp_(averaged, current, weight)
