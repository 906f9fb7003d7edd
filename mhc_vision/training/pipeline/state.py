"""Weights and optimiser states of a pipeline as one process has them."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer


def gather_tensors(own: Mapping[str, Tensor], group: dist.ProcessGroup, device: torch.device) -> dict[str, Tensor]:
    """The tensors of all processes by name, on the CPU of the first one; of one that several have, the first's.

    Args:
        own: Those of this process.
        group: The processes, all of which call this.
        device: That the group sends from.

    Returns:
        In the first process all of them; in the others nothing.
    """
    rank, first = dist.get_rank(group), dist.get_global_rank(group, 0)
    known: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(known, {name: (value.shape, value.dtype) for name, value in own.items()}, group=group)
    gathered = {name: value.detach().cpu() for name, value in own.items()} if rank == 0 else {}
    seen = set(known[0])
    for sender, theirs in enumerate(known[1:], start=1):
        for name in [name for name in theirs if name not in seen]:
            seen.add(name)
            if rank == sender:
                dist.send(own[name].detach().to(device).contiguous(), first, group=group)
            elif rank == 0:
                shape, dtype = theirs[name]
                received = torch.empty(shape, dtype=dtype, device=device)
                dist.recv(received, dist.get_global_rank(group, sender), group=group)
                gathered[name] = received.cpu()
    return gathered


def own_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that this process has."""
    return {name: value for name, value in tensors.items() if not value.is_meta}


def gather_optimizer_state(optimizer: Optimizer, group: dist.ProcessGroup, device: torch.device) -> dict[str, Any]:
    """The state of an optimiser over the whole model, numbered as that of one process; empty but in the first one."""
    state = optimizer.state_dict()
    own = {f"{index}.{key}": value for index, values in state["state"].items() for key, value in values.items()}
    gathered = gather_tensors(own, group, device)
    if dist.get_rank(group) > 0:
        return {}
    whole: dict[int, dict[str, Tensor]] = {}
    for name in sorted(gathered, key=lambda name: int(name.partition(".")[0])):
        index, _, key = name.partition(".")
        whole.setdefault(int(index), {})[key] = gathered[name]
    return {"state": whole, "param_groups": state["param_groups"]}


def own_optimizer_state(optimizer: Optimizer, whole: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a whole state that belongs to the parameters of this process."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in whole["param_groups"] for index in group["params"]]
    own = {index for index, parameter in zip(indices, parameters, strict=True) if not parameter.is_meta}
    return {**whole, "state": {index: value for index, value in whole["state"].items() if index in own}}
