"""How much of a difference between streams survives from each branch to the read-out, now and at the start."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_vision.kernels import Coefficients
from mhc_vision.models.instruments.streams import stream_memory


def memory_profile(maps: dict[str, dict[str, Any]], starts: Sequence[Coefficients]) -> dict[str, list[float]] | None:
    """`stream_memory` along the depth.

    Args:
        maps: of `MeanMaps.result`.
        starts: The maps of each branch at the start.

    Returns:
        `now` and `start`: L values, of the mean maps and of those at the start; `None` for one stream.
    """
    now = torch.tensor(maps["res"]["mean"], dtype=torch.float64)
    if now.shape[-1] == 1:
        return None
    at_start: list[Tensor] = [start.res for start in starts]
    return {"now": stream_memory(list(now)).tolist(), "start": stream_memory(at_start).tolist()}
