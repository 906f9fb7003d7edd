"""Models registered with timm, and `hyperconnect`, which makes them of plain timm models."""

from mhc_vision.models.describe import describe
from mhc_vision.models.eva_mhc import HyperEva
from mhc_vision.models.hyper_connected import HyperConnected
from mhc_vision.models.hyperconnect import collapse, hyperconnect
from mhc_vision.models.vision_transformer_mhc import HyperVisionTransformer, HyperVisionTransformerDistilled

__all__ = [
    "HyperConnected",
    "HyperEva",
    "HyperVisionTransformer",
    "HyperVisionTransformerDistilled",
    "collapse",
    "describe",
    "hyperconnect",
]
