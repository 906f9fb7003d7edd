"""The strategy of Lightning under which a model is trained in a pipeline."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.fabric.utilities.optimizer import _optimizer_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer
from torchmetrics import Metric

from mhc_vision.checks import check_choice
from mhc_vision.layers import CONNECTIONS
from mhc_vision.training.pipeline.pipeline import SCHEDULES, Pipeline, num_stages_of
from mhc_vision.training.pipeline.stages import check_model
from mhc_vision.training.pipeline.state import (
    gather_optimizer_state,
    gather_tensors,
    own_optimizer_state,
    own_tensors,
)


class PipelineStrategy(ModelParallelStrategy):
    """Trains a model whose blocks are spread over the processes of a pipeline, and copies of that pipeline.

    Every process has one stage with the schedule 1F1B, and two with the others. Processes beyond `pipeline_size` make
    further pipelines, which see other images and average their gradients before each optimiser step. The processes of
    a pipeline are consecutive ones, so that with one pipeline per node only gradients pass between nodes.

    Automatic optimisation stays Lightning's: the schedule runs in `training_step`, forward and backward.

    Args:
        pipeline_size: Processes of a pipeline, 2 at least; `"auto"` for all.
        schedule: `"1F1B"`, `"Interleaved1F1B"`, `"ZBVZeroBubble"` or `"DualPipeV"`.
        num_microbatches: Parts of a batch that pass one after the other, a multiple of `pipeline_size`; `None` is four
            times that.
        process_group_backend: As in Lightning's strategies.
        timeout: As in Lightning's strategies.

    Raises:
        ValueError: With the Trainer, if an argument is out of range or the numbers do not fit together; when training
            starts, if the model or its settings cannot be trained so.
    """

    lightning_module: LightningModule

    def __init__(
        self,
        pipeline_size: Literal["auto"] | int = "auto",
        schedule: str = "1F1B",
        num_microbatches: int | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(1, 1, False, process_group_backend, timeout)
        self.schedule = schedule
        self._given_size, self._given_microbatches = pipeline_size, num_microbatches

    @property
    def pipeline_size(self) -> int:
        """Processes of a pipeline."""
        return self._num_all if self._given_size == "auto" else self._given_size

    @property
    def num_microbatches(self) -> int:
        """Parts of a batch."""
        return 4 * self.pipeline_size if self._given_microbatches is None else self._given_microbatches

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """All processes of a pipeline have the same share of the data."""
        size = self.pipeline_size
        return {"num_replicas": self._num_all // size, "rank": self.global_rank // size}

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning loads the checkpoint, of which each process takes its part."""
        return True

    @property
    def _num_all(self) -> int:
        return self.num_nodes * self.num_processes

    def _configure_launcher(self) -> None:
        # here all numbers are known, and no process has been started; what `__init__` refuses, the command line loses
        check_choice("trainer.strategy.schedule", self.schedule, tuple(SCHEDULES))
        size, processes = self.pipeline_size, self._num_all
        if size < 2 or processes % size:
            raise ValueError(
                f"trainer.strategy.pipeline_size: got {self._given_size} for {processes} processes (trainer.devices x "
                "trainer.num_nodes), expected 2 at least, and a divisor of their number"
            )
        least = num_stages_of(self.schedule, size) if self.schedule == "DualPipeV" else size
        if self.num_microbatches % size or self.num_microbatches < least:
            raise ValueError(
                f"trainer.strategy.num_microbatches: got {self.num_microbatches}, expected a multiple of "
                f"pipeline_size={size}, at least {least} with {self.schedule}"
            )
        super()._configure_launcher()

    def setup_environment(self) -> None:
        """Connects the processes, in rows of pipelines and columns that have the same stages."""
        _check_settings(self.lightning_module, self.lightning_module.trainer)
        check_model(self.lightning_module.get_submodule("model"), num_stages_of(self.schedule, self.pipeline_size))
        self._setup_distributed()
        shape = self._num_all // self.pipeline_size, self.pipeline_size
        self._device_mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("data_parallel", "pipeline"))

    def setup(self, trainer: Trainer) -> None:
        """Takes the stages of this process out of the model, before its optimiser is made."""
        module = self.lightning_module
        if module.pipeline is None:
            self._check_batch_size(trainer)
            group, copies = (self.device_mesh.get_group(name) for name in ("pipeline", "data_parallel"))
            model = module.get_submodule("model")
            module.pipeline = Pipeline(model, self.schedule, self.num_microbatches, group, self.root_device)
            for metric in module.modules():
                if isinstance(metric, Metric):
                    # the logits of a batch are known to all processes of its pipeline
                    metric.process_group = copies
        # not that of Lightning's class, which gives weights to what is on the meta device
        super(ModelParallelStrategy, self).setup(trainer)
        self._share_start()

    def model_to_device(self) -> None:
        """Moves what this process has."""
        self.lightning_module._apply(lambda value: value if value.is_meta else value.to(self.root_device))
        _update_properties(self.lightning_module, device=self.root_device)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Averages the gradients of all pipelines at the end of an optimiser step; the schedule has made them."""
        trainer = self.lightning_module.trainer
        if self.device_mesh["data_parallel"].size() > 1 and not trainer.fit_loop._should_accumulate():
            group = self.device_mesh.get_group("data_parallel")
            gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
            _average(gradients, group)
        return closure_loss

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Steps, and sets the gradients to zero after it: the next ones are made before Lightning would do so."""
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        optimizer.zero_grad()
        return output

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights of the whole model, in the first process."""
        state = self.lightning_module.state_dict()
        if not self._is_first_pipeline:
            return {}
        gathered = gather_tensors(own_tensors(state), self.device_mesh.get_group("pipeline"), self.root_device)
        return {name: gathered[name] for name in state if name in gathered}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As that of one process, in the first process."""
        if not self._is_first_pipeline:
            return {}
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        return gather_optimizer_state(optimizer, self.device_mesh.get_group("pipeline"), self.root_device)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint of any number of processes, whole."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """The part of a checkpoint that belongs to this process."""
        own = own_tensors(self.lightning_module.state_dict())
        state = checkpoint["state_dict"]
        if strict and (missing := sorted(own.keys() - state.keys())):
            raise ValueError(f"ckpt_path: got a checkpoint without {missing[0]}, expected all weights of the model")
        self.lightning_module.load_state_dict({name: state[name] for name in own if name in state}, strict=False)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """The part of a checkpoint that belongs to this process."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(own_optimizer_state(optimizer, state))
            _optimizer_to_device(optimizer, self.root_device)

    @property
    def _is_first_pipeline(self) -> bool:
        return self.global_rank < self.pipeline_size

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.lightning_module.parameters() if not parameter.is_meta]

    def _share_start(self) -> None:
        """Gives all pipelines the weights of the first one, as DDP does."""
        copies = self.device_mesh["data_parallel"]
        if copies.size() > 1:
            source = dist.get_global_rank(copies.get_group(), 0)
            for parameter in self._parameters():
                dist.broadcast(parameter.detach(), source, group=copies.get_group())

    def _check_batch_size(self, trainer: Trainer) -> None:
        batch_size = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
        if trainer.training and batch_size is not None and batch_size % self.num_microbatches:
            raise ValueError(
                f"trainer.strategy.num_microbatches: got {self.num_microbatches} for batches of {batch_size} images in "
                "each pipeline, expected a divisor of that number; set data.batch_size or data.total_batch_size, too"
            )


def _average(gradients: list[Tensor], group: dist.ProcessGroup) -> None:
    """The mean of each over the processes, in place; those of one dtype together."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        by_dtype.setdefault(gradient.dtype, []).append(gradient)
    for same in by_dtype.values():
        together = torch.cat([gradient.flatten() for gradient in same])
        dist.all_reduce(together, group=group)
        together /= dist.get_world_size(group)
        parts = together.split([gradient.numel() for gradient in same])
        torch._foreach_copy_(same, [part.view_as(gradient) for part, gradient in zip(parts, same, strict=True)])


def _check_settings(module: LightningModule, trainer: Trainer) -> None:
    """Raise ValueError if a run is set up in a way that no pipeline can follow."""
    settings, callbacks = module.hparams, trainer.callbacks  # type: ignore[attr-defined]
    advice = "train it with DDP or FSDP2"
    if not hasattr(module, "pipeline") or "method" in settings:
        raise ValueError(
            f"trainer.strategy: got a pipeline for {type(module).__name__}, expected DDP; only train has it"
        )
    if settings["connection"] not in (None, *CONNECTIONS):
        raise ValueError(
            f"model.connection: got {settings['connection']!r} for a pipeline, expected null or one of "
            f"{', '.join(CONNECTIONS)}; {advice}"
        )
    if settings["compile"]:
        raise ValueError("model.compile: got true for a pipeline, expected false")
    if settings["optimizer"] != "adamw":
        raise ValueError(
            f"model.optimizer: got {settings['optimizer']!r} for a pipeline, expected 'adamw', which looks at each "
            "weight alone"
        )
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is not None:
        raise ValueError("trainer.precision: got 16-mixed for a pipeline, expected bf16-mixed: losses are not scaled")
    if any(isinstance(callback, WeightAveraging) for callback in callbacks):
        raise ValueError("EMA: got a model in a pipeline, expected DDP; leave EMA out or train with DDP")
