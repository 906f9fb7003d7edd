"""Parameter counts of the registered models, as a table: `python -m mhc_vision.analysis.parameters`."""

from typing import Any

import timm
import torch

from mhc_vision.analysis.tables import markdown_table
from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.architectures import VISION_TRANSFORMERS as ARCHITECTURES


def parameter_table(num_streams: int = 4) -> str:
    """Markdown table of all registered models: parameters of the plain model, and what each connection adds.

    Args:
        num_streams: n of the hyper-connected models, from 1 to 8.

    Returns:
        One row an architecture; added parameters also in percent of the plain model's.

    Raises:
        ValueError: `num_streams` out of range.
    """
    return markdown_table([_row(name, num_streams) for name in ARCHITECTURES])


def _row(name: str, num_streams: int) -> dict[str, str]:
    plain = _count(name, num_classes=1000)
    row = {"model": f"`{name}_*`", "plain": f"{plain:,}"}
    for connection in CONNECTIONS:
        added = _count(f"{name}_{connection}", num_classes=1000, num_streams=num_streams) - plain
        row[f"`{connection}` adds"] = f"{added:,} ({100 * added / plain:.2g} %)"
    return row


def _count(name: str, **options: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name, **options).parameters())


if __name__ == "__main__":
    print(parameter_table())
