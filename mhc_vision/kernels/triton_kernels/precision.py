"""How kernels multiply matrices and round, by the dtype of the streams and by what runs the kernels."""

import torch

from mhc_vision.kernels.backend import interpreted


def precision(dtype: torch.dtype) -> str:
    """Of the products of streams of this dtype: see `device.dot`.

    The interpreter cannot multiply bf16, and few AMD GPUs know TF32. On those of NVIDIA, fp32 is split into three TF32
    numbers, whose products have 22 bits: plain fp32 products run on few units and out of registers.
    """
    if interpreted():
        return "ieee"
    if dtype == torch.bfloat16:
        return "native"
    if torch.version.hip:
        return "ieee"
    return "tf32x3" if dtype == torch.float32 else "tf32"


def fence(dtype: torch.dtype) -> int:
    """Values of this dtype that go through one opaque instruction together, or 0 where there is none."""
    if interpreted() or torch.version.hip:
        return 0
    return 4 // dtype.itemsize
