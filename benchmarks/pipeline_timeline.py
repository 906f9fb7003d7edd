"""When each process of a pipeline does what: the actions of PyTorch's schedules, played in simulated time."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage

from mhc_vision.training.pipeline.pipeline import SCHEDULES, num_stages_of, process_of_stage

FORWARD, BACKWARD, INPUTS, WEIGHTS = "F", "B", "I", "W"
# stage, kind, microbatch
Pass = tuple[int, str, int]


class Action(NamedTuple):
    """A pass of one microbatch through one stage: `F`, `B` (the whole backward pass), or its halves `I` and `W`.

    `sent_later`: what it makes leaves its process after the next pass.
    """

    stage: int
    kind: str
    microbatch: int
    sent_later: bool = False

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"


@dataclass(frozen=True)
class Seconds:
    """How long the passes of one microbatch through one process take, over all of its stages.

    Attributes:
        forward: Forward pass.
        inputs: Gradients of the inputs.
        weights: Gradients of the weights.
        transfer: From a process to the next, of streams or of their gradients.
    """

    forward: float
    inputs: float
    weights: float
    transfer: float = 0.0

    def of(self, kind: str) -> float:
        """How long an action takes, of all stages together."""
        halves = {FORWARD: self.forward, INPUTS: self.inputs, WEIGHTS: self.weights}
        return self.inputs + self.weights if kind == BACKWARD else halves[kind]


@dataclass
class Timeline:
    """What a simulated or a real step was.

    Attributes:
        actions: Of each process, with start and end in seconds.
        transfers: Number of tensors sent.
        transferring: Seconds that their transfers took, added up.
        exposed: Seconds in which a process waited for data on its way, added up.
    """

    actions: dict[int, list[tuple[Action, float, float]]] = field(default_factory=dict)
    transfers: int = 0
    transferring: float = 0.0
    exposed: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first action to the last."""
        spans = [(start, end) for actions in self.actions.values() for _, start, end in actions]
        return max(end for _, end in spans) - min(start for start, _ in spans)

    @property
    def bubble(self) -> float:
        """Share of the step in which a process has nothing to do, averaged over processes."""
        busy = sum(end - start for actions in self.actions.values() for _, start, end in actions)
        return 1 - busy / (len(self.actions) * self.seconds)

    @property
    def hidden(self) -> float:
        """Share of the transfers' time that no process waited for."""
        return 1 - self.exposed / self.transferring if self.transferring else 1.0

    def order(self) -> dict[int, list[str]]:
        """The actions of each process, in order."""
        return {rank: [str(action) for action, _, _ in actions] for rank, actions in self.actions.items()}


def stages_of(schedule: str, processes: int) -> dict[int, list[int]]:
    """The stages of each process."""
    stages: dict[int, list[int]] = {rank: [] for rank in range(processes)}
    for stage in range(num_stages_of(schedule, processes)):
        stages[process_of_stage(schedule, processes, stage)].append(stage)
    return stages


def actions_of(schedule: str, processes: int, microbatches: int) -> dict[int, list[Action]]:
    """What each process does in a step, as PyTorch's schedule has it.

    Needs a process group of the size `processes`: the fake one will do.
    """
    if schedule == "1F1B":
        return {rank: _one_forward_one_backward(rank, processes, microbatches) for rank in range(processes)}
    number = num_stages_of(schedule, processes)
    stages = [
        PipelineStage(nn.Identity(), index, number, torch.device("meta"))
        for index in stages_of(schedule, processes)[dist.get_rank()]
    ]
    order = SCHEDULES[schedule](stages, microbatches).pipeline_order
    return {rank: list(_passes(order[rank])) for rank in range(processes)}


def _one_forward_one_backward(rank: int, processes: int, microbatches: int) -> list[Action]:
    """Of `Schedule1F1B`, whose own list of actions is one microbatch off for the last process (torch 2.11 to 2.14)."""
    ahead = min(microbatches, processes - rank)
    forward = [Action(rank, FORWARD, index) for index in range(microbatches)]
    backward = [Action(rank, BACKWARD, index) for index in range(microbatches)]
    alternating = [action for pair in zip(backward, forward[ahead:], strict=False) for action in pair]
    return [*forward[:ahead], *alternating, *backward[microbatches - ahead :]]


def _passes(actions: Iterable[Any]) -> Iterable[Action]:
    """Passes alone. The runtime runs a pair that could overlap one by one, and then sends what both have made."""
    for action in filter(None, actions):
        parts = action.sub_actions or (action,)
        for part in parts:
            kind = part.computation_type.value
            if kind in (FORWARD, BACKWARD, INPUTS, WEIGHTS):
                yield Action(part.stage_index, kind, part.microbatch_index, sent_later=part is not parts[-1])


def simulate(actions: dict[int, list[Action]], seconds: Seconds) -> Timeline:
    """Plays actions: each starts when its process is free and its input is there.

    A transfer starts when its tensor is made and the link is free, one link from each process to each other, and nobody
    waits for it until the receiver needs it.

    Args:
        actions: Of each process, in order.
        seconds: How long they take. A process with two stages has half of it in each.

    Raises:
        ValueError: If an action never gets its input.
    """
    home = {action.stage: rank for rank, mine in actions.items() for action in mine}
    last = max(home)
    share = len(actions) / len(home)
    timeline = Timeline({rank: [] for rank in actions})
    free = dict.fromkeys(actions, 0.0)
    link_free: dict[tuple[int, int], float] = defaultdict(float)
    # of the tensors that there are: when they were sent, and when they are where they are needed
    made: dict[Pass, tuple[float, float]] = {}
    unsent: dict[int, list[tuple[Pass, tuple[int, int]]]] = {rank: [] for rank in actions}
    waiting = {rank: list(reversed(mine)) for rank, mine in actions.items()}
    while any(waiting.values()):
        progress = False
        for rank, left in waiting.items():
            while left and ((source := _source(left[-1], last)) is None or source in made):
                progress = True
                action = left.pop()
                start = free[rank]
                if source is not None:
                    sent, arrived = made[source]
                    timeline.exposed += max(0.0, arrived - max(start, sent))
                    start = max(start, arrived)
                end = free[rank] = start + share * seconds.of(action.kind)
                timeline.actions[rank].append((action, start, end))
                # the stage before it asks for `I`, whichever of the two backward passes it was
                result = (action.stage, INPUTS if action.kind == BACKWARD else action.kind, action.microbatch)
                receiver = home.get(_destination(action, last), rank)
                if receiver == rank:
                    made[result] = (end, end)
                else:
                    unsent[rank].append((result, (rank, receiver)))
                if action.sent_later:
                    continue
                for result, link in unsent[rank]:
                    link_free[link] = max(link_free[link], end) + seconds.transfer
                    made[result] = (end, link_free[link])
                    timeline.transfers += 1
                    timeline.transferring += seconds.transfer
                unsent[rank].clear()
        if not progress:
            stuck = {rank: str(left[-1]) for rank, left in waiting.items() if left}
            raise ValueError(f"actions: got an order in which {stuck} wait for ever, expected one of a schedule")
    return timeline


def _source(action: Action, last: int) -> Pass | None:
    """The pass of another stage that makes what this one needs."""
    if action.kind == FORWARD and action.stage > 0:
        return action.stage - 1, FORWARD, action.microbatch
    if action.kind in (BACKWARD, INPUTS) and action.stage < last:
        return action.stage + 1, INPUTS, action.microbatch
    return None


def _destination(action: Action, last: int) -> int | None:
    """The stage that takes what this pass makes."""
    if action.kind == FORWARD and action.stage < last:
        return action.stage + 1
    if action.kind in (BACKWARD, INPUTS) and action.stage > 0:
        return action.stage - 1
    return None
