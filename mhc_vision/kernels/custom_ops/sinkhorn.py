"""Sinkhorn-Knopp with Triton: `mhc_vision::sinkhorn_maps` and its gradient."""

from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels.backend import on_its_device


@torch.library.custom_op("mhc_vision::sinkhorn_maps", mutates_args=())
@on_its_device
def sinkhorn_maps(logits: Tensor, num_iters: int) -> Tensor:
    """(M, n, n) fp32 -> (M, n, n)."""
    from mhc_vision.kernels.triton_kernels import sinkhorn as launch

    return launch.forward(logits, num_iters)


@sinkhorn_maps.register_fake
def _(logits: Tensor, num_iters: int) -> Tensor:
    return torch.empty_like(logits)


@torch.library.custom_op("mhc_vision::sinkhorn_maps_backward", mutates_args=())
@on_its_device
def sinkhorn_maps_backward(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    """Gradient of the logits."""
    from mhc_vision.kernels.triton_kernels import sinkhorn as launch

    return launch.backward(d_maps, logits, num_iters)


@sinkhorn_maps_backward.register_fake
def _(d_maps: Tensor, logits: Tensor, num_iters: int) -> Tensor:
    return torch.empty_like(logits)


def _save(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    logits, ctx.num_iters = inputs
    ctx.save_for_backward(logits)


def _gradient(ctx: Any, d_maps: Tensor) -> tuple[Tensor, None]:
    (logits,) = ctx.saved_tensors
    return sinkhorn_maps_backward(d_maps.contiguous(), logits, ctx.num_iters), None


sinkhorn_maps.register_autograd(_gradient, setup_context=_save)
