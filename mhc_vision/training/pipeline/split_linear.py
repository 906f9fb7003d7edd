"""A linear layer whose weight gradient can be made later than that of its input."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mhc_vision.kernels.weight_gradients import Held, hold


class SplitLinear(nn.Linear):
    """`nn.Linear`, also inside `held_weight_gradients`; modules change their class in place, and keep their names."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        (weight, bias), held = hold(x, self.weight, self.bias)
        if held is None:
            return super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x = x.to(dtype)
            weight, bias = (None if value is None else value.to(dtype) for value in (weight, bias))
        output: Tensor = _Linear.apply(x, weight, bias, held)
        return output


def split_linears(module: nn.Module) -> None:
    """Make `SplitLinear` of all layers that are `nn.Linear` themselves."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = SplitLinear


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, held: Held) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.held = held
        return functional.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = d_output.flatten(0, -2)
        ctx.held.later(lambda: (rows.t() @ x.flatten(0, -2), rows.sum(0)))
        return d_output @ weight, None, None, None
