"""What a process does in a pipeline: its stages, in the order of a schedule in training, one by one in evaluation."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)

from mhc_vision.data.order import derive_seed
from mhc_vision.kernels.weight_gradients import held_weight_gradients, take_weight_gradients
from mhc_vision.training.pipeline.split_linear import split_linears
from mhc_vision.training.pipeline.stages import Stage, keep_parts, stage_parts

SCHEDULES: dict[str, Any] = {
    "1F1B": Schedule1F1B,
    "Interleaved1F1B": ScheduleInterleaved1F1B,
    "ZBVZeroBubble": ScheduleZBVZeroBubble,
    "DualPipeV": ScheduleDualPipeV,
}
"""By the names that PyTorch gives them; all but the first have two stages in each process."""
# these also make weight gradients apart from those of inputs
_V_SHAPED = ("ZBVZeroBubble", "DualPipeV")


def num_stages_of(schedule: str, num_processes: int) -> int:
    """Stages of a pipeline with this schedule."""
    return num_processes if schedule == "1F1B" else 2 * num_processes


def process_of_stage(schedule: str, num_processes: int, stage: int) -> int:
    """The process of a pipeline that has this stage: they come in turn, in a V the second time from the last one."""
    turn, place = divmod(stage, num_processes)
    return num_processes - 1 - place if turn and schedule in _V_SHAPED else place


class _Sent(NamedTuple):
    """Shape of one image's part, and dtype, of what stages send each other, and of logits."""

    border: tuple[tuple[int, ...], torch.dtype]
    logits: tuple[tuple[int, ...], torch.dtype]


class _ScheduledStage(PipelineStage):
    """A stage of PyTorch's schedules whose backward pass is that of a model outside of autocast, as it should be.

    With a `dw_builder` it leaves what weight gradients it can for later.
    """

    def _get_init_p2p_neighbors_ops(self) -> list[dist.P2POp]:
        # PyTorch 2.11 also connects the two stages in which a V turns, and gloo connects no process to itself
        return [op for op in super()._get_init_p2p_neighbors_ops() if op.group_peer != self.group_rank]

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        with held_weight_gradients() if self.dw_builder else nullcontext():
            return super().forward_maybe_with_nosync(*args, **kwargs)

    def backward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(torch.device(self.device).type, enabled=False):
            return super().backward_maybe_with_nosync(*args, **kwargs)


class Pipeline:
    """The stages of one process, and the way of batches through all of them.

    All processes of a pipeline have the same batch. The first stage takes its images, the last one its targets.

    Args:
        model: A timm model, the same one in all processes; what is not of this process's stages leaves its memory.
        schedule: A key of `SCHEDULES`.
        num_microbatches: Parts of a batch that are on their way at a time.
        group: The processes of this pipeline.
        device: Of this process.
    """

    def __init__(
        self, model: nn.Module, schedule: str, num_microbatches: int, group: dist.ProcessGroup, device: torch.device
    ) -> None:
        self.schedule, self.num_microbatches, self.group, self.device = schedule, num_microbatches, group, device
        self.rank, size = dist.get_rank(group), dist.get_world_size(group)
        num_stages = num_stages_of(schedule, size)
        parts = stage_parts(len(model.blocks), num_stages)  # type: ignore[arg-type]
        processes = [process_of_stage(schedule, size, stage) for stage in range(num_stages)]
        # of each stage, as all processes count
        self._processes = [dist.get_global_rank(group, process) for process in processes]
        mine = [stage for stage, process in enumerate(processes) if process == self.rank]
        keep_parts(model, [parts[stage] for stage in mine])
        if schedule in _V_SHAPED:
            split_linears(model)
        self.stages = {stage: Stage(model, parts[stage]) for stage in mine}
        self._sent: dict[Any, _Sent] = {}
        self._schedules: dict[Any, Any] = {}
        self._loss: Callable[[Tensor, Tensor], Tensor]

    def train(self, images: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor], scale: float) -> Tensor:
        """Add the gradients of a batch to those of the parameters of this process.

        Args:
            images: (B, in_chans, H, W).
            targets: of the loss, (B, ...).
            loss: the mean over images of logits (B, num_classes) and targets.
            scale: factor on the gradients.

        Returns:
            The loss of the batch, without a graph, in all processes.
        """
        if len(images) % self.num_microbatches:
            raise ValueError(
                f"trainer.strategy.num_microbatches: got {self.num_microbatches} for batches of {len(images)} images, "
                "expected a divisor of that number"
            )
        # what is drawn in a stage must not be what is drawn in another one
        torch.manual_seed(derive_seed("stage", int(torch.randint(2**62, ())), self.rank))
        factor = scale / self.num_microbatches
        self._loss = lambda logits, target: factor * loss(logits, target)
        schedule = self._schedule_for(images)
        last = len(self._processes) - 1 in self.stages
        losses: list[Tensor] = []
        given = {"target": targets, "losses": losses} if last else {}
        schedule.step(*((images,) if 0 in self.stages else ()), **given)
        mean = torch.zeros((), device=self.device)
        if last:
            mean = torch.stack([part.detach().float() for part in losses]).sum() / scale
        dist.broadcast(mean, self._processes[-1], group=self.group)
        return mean

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, in_chans, H, W), in all processes."""
        sent = self._sent_for(images)
        outputs: list[Tensor] = []
        waiting: list[tuple[Any, Tensor]] = []
        for part in images.chunk(self.num_microbatches):
            x = part
            for index, stage in self.stages.items():
                if index > 0 and index - 1 not in self.stages:
                    x = torch.empty(len(part), *sent.border[0], dtype=sent.border[1], device=self.device)
                    dist.recv(x, self._processes[index - 1], group=self.group)
                x = stage(x)
                if index == len(self._processes) - 1:
                    outputs.append(x)
                elif index + 1 not in self.stages:
                    x = x.contiguous()
                    waiting.append((dist.isend(x, self._processes[index + 1], group=self.group), x))
        for work, _ in waiting:
            work.wait()
        shape, dtype = sent.logits
        logits = torch.cat(outputs) if outputs else torch.empty(len(images), *shape, dtype=dtype, device=self.device)
        dist.broadcast(logits, self._processes[-1], group=self.group)
        return logits

    def total_norm(self, norm: Tensor) -> Tensor:
        """The norm of what all processes have together, from that of what this one has."""
        squares = norm.square()
        dist.all_reduce(squares, group=self.group)
        return squares.sqrt()

    def _schedule_for(self, images: Tensor) -> Any:
        """PyTorch's schedule for batches like this one: it makes the buffers to receive in."""
        sent, count = self._sent_for(images), len(images) // self.num_microbatches
        key = (sent, images.shape, images.dtype)
        if key not in self._schedules:
            num_stages = len(self._processes)
            logits = torch.empty(count, *sent.logits[0], dtype=sent.logits[1], device="meta", requires_grad=True)
            border = torch.empty(count, *sent.border[0], dtype=sent.border[1], device="meta", requires_grad=True)
            stages = [
                _ScheduledStage(
                    stage,
                    index,
                    num_stages,
                    self.device,
                    input_args=images[:count].to("meta") if index == 0 else border,
                    output_args=logits if index == num_stages - 1 else border,
                    group=self.group,
                    dw_builder=take_weight_gradients if self.schedule in _V_SHAPED else None,
                )
                for index, stage in self.stages.items()
            ]
            # the stages of one process, or its only one
            given: Any = stages if self.schedule != "1F1B" else stages[0]
            self._schedules[key] = SCHEDULES[self.schedule](
                given, self.num_microbatches, lambda *pair: self._loss(*pair), scale_grads=False
            )
        return self._schedules[key]

    def _sent_for(self, images: Tensor) -> _Sent:
        """What stages send each other for images like these: the first and the last one look at one of them."""
        for stage in self.stages.values():
            stage.image_size = images.shape[-2], images.shape[-1]
        kind = self.device.type
        key = (images.shape[1:], images.dtype, torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind))
        if key not in self._sent:
            devices = [self.device] if kind == "cuda" else []
            with torch.random.fork_rng(devices), torch.no_grad():
                border = self._look(0, images[:1])
                shape, dtype = border
                logits = self._look(-1, torch.zeros(1, *shape, dtype=dtype, device=self.device))
            self._sent[key] = _Sent(border, logits)
            # it holds weights that no gradient goes through
            torch.clear_autocast_cache()
        return self._sent[key]

    def _look(self, index: int, x: Tensor) -> Any:
        """Shape and dtype of what the first or last stage makes of x, in all processes."""
        stage = self.stages.get(index % len(self._processes))
        found: list[Any] = [None]
        if stage is not None:
            output = stage(x)
            found = [(tuple(output.shape[1:]), output.dtype)]
        dist.broadcast_object_list(found, self._processes[index], group=self.group, device=self.device)
        return found[0]
