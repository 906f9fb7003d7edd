"""A mesh of processes of which only one is there, whose collectives do nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def process_mesh(rank: int, num_processes: int) -> Iterator[DeviceMesh]:
    """As Lightning's `ModelParallelStrategy` makes it, for process `rank`."""
    dist.init_process_group("fake", rank=rank, world_size=num_processes, store=FakeStore())
    try:
        names = ("data_parallel", "tensor_parallel")
        yield init_device_mesh("cpu", (num_processes, 1), mesh_dim_names=names)
    finally:
        dist.destroy_process_group()
