"""How to analyse a model."""

from dataclasses import dataclass
from typing import Literal

RANDOM = "random"
"""In place of a folder of images: noise."""


@dataclass(frozen=True)
class AnalysisOptions:
    """How `analyze_model` runs.

    Attributes:
        connection: For a plain timm name: the variant with this connection.
        weights: As in `load_model`.
        num_images: How many images are measured.
        batch_size: Images at once; changes memory and time only.
        device: `"auto"` (a GPU where there is one), or a device of torch.
    """

    connection: str | None = None
    weights: Literal["default", "raw", "initial"] = "default"
    num_images: int = 64
    batch_size: int = 16
    device: str = "auto"
