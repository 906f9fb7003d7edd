"""φ as the kernels of the boundary read it, made once for all connections."""

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_LOGITS = 16
"""What tensor cores multiply at least."""


def padded_size(size: int) -> int:
    """The next power of 2."""
    return 1 << (size - 1).bit_length()


@torch.no_grad()
def prepare_phi(weights: Sequence[Tensor], num_streams: int, dtype: torch.dtype) -> list[Tensor]:
    """φᵀ of connections of one shape -> φ of each, ready for the kernels.

    Rows of one channel of all streams lie side by side, as tiles of streams are joined; n and k are padded with zeros
    to powers of 2. For streams narrower than fp32, φ is split into two bf16 numbers that hold 16 bits of it together.

    Args:
        weights: each (k, n*C), rows [pre | post | res].
        num_streams: n.
        dtype: of the streams.

    Returns:
        Of each connection (2, C*n, k) in bf16, high and low part, or (1, C*n, k) in fp32, padded.
    """
    stacked = torch.stack([weight.float() for weight in weights])
    count, k, width = stacked.shape
    n, dim = num_streams, width // num_streams
    phi = stacked.new_zeros(count, dim, padded_size(n), max(MIN_LOGITS, padded_size(k)))
    phi[:, :, :n, :k] = stacked.view(count, k, n, dim).permute(0, 3, 2, 1)
    phi = phi.flatten(1, 2).unsqueeze(1)
    if dtype == torch.float32:
        return list(phi)
    high = phi.bfloat16()
    return list(torch.cat([high, (phi - high.float()).bfloat16()], 1))
