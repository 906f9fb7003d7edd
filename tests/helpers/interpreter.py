"""Triton's interpreter as the tests use it: it rounds to bf16 as GPUs do, and repeats no work.

By itself it patches Triton's language again at every call of a device function, and makes its table of dtypes again at
every operation: half of its time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch


@contextmanager
def prepared_interpreter() -> Iterator[None]:
    """Patches the interpreter of this process; nothing where there is a GPU."""
    if torch.cuda.is_available():
        yield
        return
    pytest.importorskip("triton")
    from triton.runtime import interpreter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", _rounding(interpreter._convert_float))
        patch.setattr(interpreter, "_get_np_dtype", _remembering(interpreter._get_np_dtype))
        patch.setattr(interpreter, "_patch_lang", _once(interpreter._patch_lang, interpreter._LangPatchScope))
        yield


def _rounding(convert: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """fp32 to bf16 goes to nearest even; by itself the interpreter cuts the low bits off."""
    import triton.language as tl

    def convert_or_round(values: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
        if (source, target) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.ascontiguousarray(values.view(np.float32))).bfloat16()
            return rounded.view(torch.uint16).numpy()
        return convert(values, source, target, rounding_mode)

    return convert_or_round


def _remembering(numpy_dtype: Callable[..., np.dtype]) -> Callable[..., np.dtype]:
    """By the dtype of one element; pointers cannot be hashed."""
    of_numbers = cache(numpy_dtype)
    return lambda dtype: numpy_dtype(dtype) if dtype.scalar.is_ptr() else of_numbers(dtype.scalar)


def _once(patch_language: Callable[..., Any], nothing: Callable[[], Any]) -> Callable[..., Any]:
    """Patches what each function sees of the language at its first call, for good."""
    seen = set()

    def patch_at_first(function: Callable[..., Any]) -> Any:
        if function not in seen:
            seen.add(function)
            patch_language(function)
        # what the end of a launch undoes
        return nothing()

    return patch_at_first
