"""Triton's interpreter rounds to bf16 as GPUs do; by itself it cuts the low bits off."""

from typing import Any

import numpy as np
import pytest
import torch


def round_to_bf16(values: np.ndarray) -> np.ndarray:
    """fp32 -> the bits of bf16, to nearest even."""
    return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.uint16).numpy()


@pytest.fixture(autouse=True, scope="session")
def interpreter_rounds() -> Any:
    if torch.cuda.is_available():
        yield
        return
    tl = pytest.importorskip("triton.language")
    from triton.runtime import interpreter

    cut = interpreter._convert_float

    def convert(values: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
        if (source, target) == (tl.float32, tl.bfloat16):
            return round_to_bf16(values.view(np.float32))
        return cut(values, source, target, rounding_mode)

    patch = pytest.MonkeyPatch()
    patch.setattr(interpreter, "_convert_float", convert)
    yield
    patch.undo()
