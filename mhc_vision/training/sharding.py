"""Fully sharded data parallelism (PyTorch's FSDP2) for models that outgrow a card."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

# where nearly all parameters of a timm ViT are; the rest of a block, its connections included, goes with the root
_SHARDED_BRANCHES = ("attn", "mlp")


def shard_model(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a timm model in place over the data-parallel processes: each branch of a block for itself, then the rest.

    Parameters stay fp32 and are gathered so; autocast lowers the precision of products as it does without sharding.
    Blocks themselves carry no hooks, so that a stack with mHC still runs boundary by boundary on a GPU.

    Args:
        model: To be sharded.
        mesh: Lightning's, with the dimensions `data_parallel` and `tensor_parallel`.

    Raises:
        ValueError: If the mesh is tensor-parallel, which the models are not made for.
    """
    tensor_parallel = mesh["tensor_parallel"].size()
    if tensor_parallel != 1:
        raise ValueError(
            f"tensor_parallel_size: got {tensor_parallel}, expected 1; "
            "set data_parallel_size of ModelParallelStrategy to the number of processes"
        )
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _SHARDED_BRANCHES:
            fully_shard(module, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` has been here."""
    return isinstance(model, FSDPModule)
