"""Fully sharded data parallelism (PyTorch's FSDP2) for models that outgrow a card, or the memory of a machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from mhc_vision.finite import named, not_finite
from mhc_vision.training.deferred_weights import DeferredWeights

# where nearly all parameters of a timm ViT are; the rest of a block, its connections included, goes with the root
_SHARDED_BRANCHES = ("attn", "mlp")


def shard_model(model: nn.Module, mesh: DeviceMesh, weights: DeferredWeights | None = None) -> None:
    """Shards a timm model in place over the data-parallel processes: each branch of a block for itself, then the rest.

    Parameters stay fp32 and are gathered so; autocast lowers the precision of products as it does without sharding.
    Blocks themselves carry no hooks, so that a stack with mHC still runs boundary by boundary on a GPU.

    Args:
        model: To be sharded.
        mesh: Lightning's, with the dimensions `data_parallel` and `tensor_parallel`.
        weights: Where the model has been made: each process then makes one weight at a time and keeps its shard.

    Raises:
        ValueError: If the mesh is tensor-parallel, which the models are not made for, or a weight that is made is not
            finite, as of a damaged file.
    """
    tensor_parallel = mesh["tensor_parallel"].size()
    if tensor_parallel != 1:
        raise ValueError(
            f"tensor_parallel_size: got {tensor_parallel}, expected 1; "
            "set data_parallel_size of ModelParallelStrategy to the number of processes"
        )
    # where they were read from a file, there was nothing to look at
    lost = [] if weights is None else not_finite(model)
    # sharding puts other tensors in their places
    deferred = {name: tensor for name, tensor in _tensors(model) if weights is not None and tensor in weights}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _SHARDED_BRANCHES:
            fully_shard(module, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    for name, tensor in deferred.items():
        assert weights is not None
        value = weights.value(tensor)
        lost += not_finite({name: value})
        _set(model, name, value)
    if lost:
        raise ValueError(
            f"weights: got NaN or infinity in {named(lost)}, expected finite ones to start from; take an earlier "
            "checkpoint, or another file"
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` has been here."""
    return isinstance(model, FSDPModule)


@contextmanager
def connections_gathered(model: nn.Module) -> Iterator[None]:
    """While the block runs, every process has the connections of a sharded model whole; others are left alone.

    What changes there must be changed back before the end: only the copies change, not the shards.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    # of the root, where the connections are
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _set(model: nn.Module, name: str, value: Tensor) -> None:
    """Gives a sharded model its shard of a parameter, or all of a buffer."""
    path, _, name = name.rpartition(".")
    module = model.get_submodule(path)
    empty = getattr(module, name)
    if isinstance(empty, DTensor):
        mesh, (placement,) = empty.device_mesh, empty.placements
        assert placement == Shard(0)
        shards = value.chunk(mesh.size(), 0)
        rank = mesh.get_local_rank()
        shard = shards[rank] if rank < len(shards) else value[:0]
        # moved or copied: a view would keep the rest
        shard = shard.to(mesh.device_type, copy=True)
        value = DTensor.from_local(shard, mesh, empty.placements, shape=empty.shape, stride=empty.stride())
        setattr(module, name, nn.Parameter(value, empty.requires_grad))
    else:
        setattr(module, name, value)
