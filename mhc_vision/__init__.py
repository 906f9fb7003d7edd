"""Hyper-connections for vision transformers. Importing this package adds `vit_*_{shc,dhc,mhc}` to timm's registry."""

from mhc_vision.command_start import interrupted_in_words

with interrupted_in_words():
    from mhc_vision import kernels, layers
    from mhc_vision.models import HyperEva, HyperVisionTransformer, collapse, hyperconnect
from mhc_vision.version import __version__

__all__ = ["HyperEva", "HyperVisionTransformer", "__version__", "collapse", "hyperconnect", "kernels", "layers"]
