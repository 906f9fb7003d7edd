"""How the boundary's ops are made known to PyTorch: with less work on each call than `torch.library.custom_op` does."""

from collections.abc import Callable
from typing import Any

import torch

from mhc_vision.kernels.backend import on_its_device


def define_op(name: str, schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function the body of `mhc_vision::name`, which takes its place.

    On each call `custom_op` looks for results that share memory with arguments, and for a gradient's formula; that
    takes as long as a launch. These ops have their gradients in autograd functions, and tests check their results.
    """

    def define(body: Callable[..., Any]) -> Any:
        torch.library.define(f"mhc_vision::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
        # as custom ops are, out of sight of torch.compile, which could come here from a graph break
        torch.library.impl(f"mhc_vision::{name}", "default", torch._disable_dynamo(on_its_device(body)))
        return getattr(torch.ops.mhc_vision, name).default

    return define
