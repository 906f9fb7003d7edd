from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from interpreter import prepared_interpreter
from torch import Tensor


@pytest.fixture(autouse=True, scope="session")
def interpreter() -> Iterator[None]:
    with prepared_interpreter():
        yield


@pytest.fixture
def poisoned_memory(monkeypatch) -> None:
    """Memory that a kernel is to fill holds NaN before."""

    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def filled(*args: Any, **options: Any) -> Tensor:
            made = make(*args, **options)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return filled

    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))
