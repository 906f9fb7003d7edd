import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def compiled_alone() -> Iterator[None]:
    """What one test compiles does not count towards the limit of compilations that another one meets."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture
def trained_like():
    """Moves weights, norms and biases away from their start, so that nothing is equal by accident."""

    def move(model: nn.Module, std: float = 0.05) -> nn.Module:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(std * torch.randn_like(parameter))
        return model

    return move


@pytest.fixture
def tiny() -> dict:
    """Options of a model that runs in milliseconds: patch 4 on 16 x 16, so 16 patches."""
    return {"img_size": 16, "patch_size": 4, "depth": 3, "num_classes": 10}
