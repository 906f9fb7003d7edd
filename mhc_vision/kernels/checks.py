"""Checks of arguments that the ops share: every mistake is named before any work is done."""

import torch
from torch import Tensor

from mhc_vision.checks import check_number, check_whole_number

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# streams n that the ops take
MAX_STREAMS = 8
# streams n that `boundary` takes: its kernels hold the n*n entries of a map in registers
MAX_FUSED_STREAMS = 4


def check_num_streams(num_streams: int, argument: str = "num_streams") -> None:
    """Raise ValueError unless `num_streams` is a whole number from 1 to 8."""
    check_whole_number(argument, num_streams, at_least=1, at_most=MAX_STREAMS)


def check_floating(tensor: Tensor, argument: str) -> None:
    """Raise ValueError unless `tensor` is a tensor of fp16, bf16, fp32 or fp64."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{argument}: got {type(tensor).__name__}, expected a floating-point tensor")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{argument}: got dtype {tensor.dtype}, expected fp16, bf16, fp32 or fp64")


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise ValueError unless a model can have this dtype; None is torch's default."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected torch's float16, bfloat16, float32 or float64")


def check_streams(streams: Tensor) -> None:
    """Raise ValueError unless `streams` is floating-point of shape (..., n, C) with n from 1 to 8."""
    check_floating(streams, "streams")
    if streams.dim() < 2 or streams.shape[-1] == 0:
        raise ValueError(f"streams: got shape {tuple(streams.shape)}, expected (..., n, C)")
    check_num_streams(streams.shape[-2], "streams: number of streams n of shape (..., n, C)")


def check_map(tensor: Tensor, argument: str, streams: Tensor, shape: tuple[int, ...]) -> None:
    """Check a map against its streams: one per token, `(..., *shape)`, or one for all tokens, `shape` alone."""
    check_floating(tensor, argument)
    check_same_device(tensor, argument, streams)
    per_token = (*streams.shape[:-2], *shape)
    if tuple(tensor.shape) not in (shape, per_token):
        raise ValueError(
            f"{argument}: got shape {tuple(tensor.shape)}, expected {per_token} or {shape} "
            f"for streams of shape {tuple(streams.shape)}"
        )


def check_shape(tensor: Tensor, argument: str, streams: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `tensor` is floating-point, of exactly this shape, on the device of the streams."""
    check_floating(tensor, argument)
    check_same_device(tensor, argument, streams)
    if tensor.shape != shape:
        raise ValueError(
            f"{argument}: got shape {tuple(tensor.shape)}, expected {shape} for streams of shape {tuple(streams.shape)}"
        )


def check_same_device(tensor: Tensor, argument: str, streams: Tensor) -> None:
    """Raise ValueError unless both tensors are on one device."""
    if tensor.device != streams.device:
        raise ValueError(f"{argument}: got device {tensor.device}, expected {streams.device}, the device of streams")


def check_num_iters(num_iters: int, argument: str = "num_iters") -> None:
    """Raise ValueError unless `num_iters` is a whole number from 1."""
    check_whole_number(argument, num_iters, at_least=1)


def check_eps(eps: float, argument: str = "eps") -> None:
    """Raise ValueError unless `eps` is a positive number: without it, the norm of a token of zeros is NaN."""
    check_number(argument, eps, above=0)
