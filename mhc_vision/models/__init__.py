"""Models registered with timm, and the way from a plain timm model to a hyper-connected one."""

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
    "hyperconnect",
]
