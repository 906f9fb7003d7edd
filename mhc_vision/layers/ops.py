"""The kernels that modules call, each recorded by `torch.fx` as one call.

Modules call `ops.read_streams(...)`: `torch.fx` replaces names in the file that wraps them, so this is the only one.
"""

import torch

from mhc_vision.kernels import (
    branch_input,
    merge_streams,
    project_streams,
    read_streams,
    sinkhorn_knopp,
    stream_logits,
)
from mhc_vision.kernels.combination import combine_matrices

__all__ = [
    "branch_input",
    "combine_matrices",
    "merge_streams",
    "project_streams",
    "read_streams",
    "sinkhorn_knopp",
    "stream_logits",
]

for _name in __all__:
    torch.fx.wrap(_name)
