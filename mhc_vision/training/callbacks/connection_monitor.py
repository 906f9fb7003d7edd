"""What the connections do while a run trains: gains, Sinkhorn residual, how far maps have come, what streams hold."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from mhc_vision.checks import check_whole_number
from mhc_vision.kernels import Coefficients
from mhc_vision.layers import (
    HyperConnection,
    ManifoldHyperConnection,
    initial_coefficients,
    named_connections,
    observe_reduction,
    record_coefficients,
)
from mhc_vision.models.instruments.gains import backward_gain, column_error, composite_maps, forward_gain
from mhc_vision.models.instruments.streams import dominant_share, effective_rank, stream_memory
from mhc_vision.training.callbacks.step_interval import StepInterval, is_last_step
from mhc_vision.training.evaluating import evaluating


class ConnectionMonitor(Callback):
    """Logs, every so many steps and at the last one, what a hyper-connected model does with a few images of the batch.

    - `gain/forward/03`, `gain/backward/03`: Amax gains of branch 3 (mHC, arXiv 2512.24880, Sec. 3.1);
    - `gain/composite_forward`, `gain/composite_backward`: the largest Amax gains of the products of the maps from a
      branch to the last one;
    - `gain/column_error/03`: the largest |log column sum|, where `res` is meant to be doubly stochastic;
    - `travel/{pre,post,res}`: mean absolute difference of the maps from their start, over branches, tokens and entries.
      Where it stays near 0 the model is a plain one at a higher price;
    - `streams/effective_rank`, `streams/dominant_share`: of the streams at the read-out, how many directions they use
      (median over tokens; 1 for copies) and how much of their squared norm the largest has (1/n for copies);
    - `streams/memory`: how much of a difference between streams before the first branch the mean maps leave at the
      read-out (see `stream_memory`).

    The images pass the model once more, in evaluation mode and without gradients; the state of the run is left alone.
    A plain model has nothing to log, nor has one whose blocks a pipeline spreads over processes.

    Args:
        every_n_steps: Optimiser steps between two looks.
        num_images: Images of the batch that are looked at.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, every_n_steps: int = 500, num_images: int = 4) -> None:
        check_whole_number("num_images", num_images, at_least=1)
        self.num_images = num_images
        self._interval = StepInterval(every_n_steps)
        self._connections: dict[str, HyperConnection] = {}
        self._starts: dict[str, Coefficients] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notes the maps at the start, before weights are loaded or sharded."""
        if stage == "fit":
            self._connections = named_connections(_model(pl_module))
            self._starts = {name: initial_coefficients(module) for name, module in self._connections.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts counting; says so where it cannot look."""
        self._interval.start(trainer)
        if self._connections and getattr(pl_module, "pipeline", None) is not None:
            self._connections = {}
            rank_zero_info("gains, travel and streams are not logged: a pipeline spreads the blocks over the processes")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks and logs when it is time; all processes look, as the weights may be spread over them."""
        is_due = self._interval.has_ended(trainer) or is_last_step(trainer)
        if not is_due or not self._connections:
            return
        figures = {name: float(value) for name, value in self.measure(_model(pl_module), batch[0]).items()}
        for logger in trainer.loggers:
            logger.log_metrics({**figures, "epoch": trainer.current_epoch}, step=trainer.global_step - 1)

    @torch.no_grad()
    def measure(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The figures for some of these images, (B, C, H, W), by name."""
        # the graph of a compiled model has no place to record at
        eager = torch.compiler.set_stance("force_eager")
        read_out: list[Tensor] = []
        with (
            evaluating(model),
            eager,
            observe_reduction(model, lambda streams, weights: read_out.append(streams)),
            record_coefficients(model) as records,
        ):
            model(images[: self.num_images])
        figures: dict[str, Tensor] = {}
        for index, (name, maps) in enumerate(records.items()):
            figures[f"gain/forward/{index:02d}"] = forward_gain(maps.res)
            figures[f"gain/backward/{index:02d}"] = backward_gain(maps.res)
            if _is_doubly_stochastic(self._connections[name]):
                figures[f"gain/column_error/{index:02d}"] = column_error(maps.res)
        products = composite_maps([maps.res for maps in records.values()])
        figures["gain/composite_forward"] = torch.stack([forward_gain(product) for product in products]).amax()
        figures["gain/composite_backward"] = torch.stack([backward_gain(product) for product in products]).amax()
        return {**figures, **self._travel(records), **_stream_figures(read_out[-1], records)}

    def _travel(self, records: dict[str, Coefficients]) -> dict[str, Tensor]:
        differences: dict[str, list[Tensor]] = {field: [] for field in Coefficients._fields}
        for name, maps in records.items():
            for field, now, start in zip(Coefficients._fields, maps, self._starts[name], strict=True):
                differences[field].append((now - start.to(now)).abs().mean())
        return {f"travel/{field}": torch.stack(values).mean() for field, values in differences.items()}


def _stream_figures(streams: Tensor, records: dict[str, Coefficients]) -> dict[str, Tensor]:
    if streams.shape[-2] == 1:
        return {}
    return {
        "streams/effective_rank": effective_rank(streams).median(),
        "streams/dominant_share": dominant_share(streams),
        "streams/memory": stream_memory([maps.res for maps in records.values()])[0],
    }


def _model(pl_module: LightningModule) -> nn.Module:
    return pl_module.get_submodule("model")


def _is_doubly_stochastic(connection: HyperConnection) -> bool:
    return isinstance(connection, ManifoldHyperConnection) and connection.constraint.doubly_stochastic
