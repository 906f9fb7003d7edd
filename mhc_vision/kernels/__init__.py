"""Stateless tensor ops of hyper-connections; no modules, no parameters.

Shapes: B batch, N tokens, n streams, C channels. `streams` are (B, N, n, C) contiguous in the models, (..., n, C) here.

An op has one name in all layers: its file here checks arguments and chooses what runs, `custom_ops/` makes the Triton
kernels known to PyTorch, and `triton_kernels/` holds kernels and launches. There, reading is `merge` without an output,
and adding one is `merge` without `res`; `branch_input` is `boundary` without a merge, and makes the logits alone, too.
`reference.py` has the formulas.
"""

import torch

from mhc_vision.kernels.add_and_read import add_and_read
from mhc_vision.kernels.add_output import add_output
from mhc_vision.kernels.backend import describe, requested_backend, use_backend
from mhc_vision.kernels.boundary import boundary
from mhc_vision.kernels.branch_input import branch_input
from mhc_vision.kernels.coefficients import Coefficients, stream_coefficients
from mhc_vision.kernels.combination import combine_matrices
from mhc_vision.kernels.logits import stream_logits
from mhc_vision.kernels.merge import merge_and_read, merge_streams
from mhc_vision.kernels.projections import project_streams
from mhc_vision.kernels.read import read_streams
from mhc_vision.kernels.sinkhorn import sinkhorn_knopp

__all__ = [
    "Coefficients",
    "add_and_read",
    "add_output",
    "boundary",
    "branch_input",
    "combine_matrices",
    "describe",
    "merge_and_read",
    "merge_streams",
    "project_streams",
    "read_streams",
    "requested_backend",
    "sinkhorn_knopp",
    "stream_coefficients",
    "stream_logits",
    "use_backend",
]

# `torch.fx` records an op as one call where modules call it through this package: `kernels.read_streams(...)`
for _name in (
    "add_output",
    "branch_input",
    "combine_matrices",
    "merge_and_read",
    "merge_streams",
    "project_streams",
    "read_streams",
    "sinkhorn_knopp",
    "stream_coefficients",
    "stream_logits",
):
    torch.fx.wrap(_name)
