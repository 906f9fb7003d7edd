"""Hyper-connections for vision transformers. Importing this package adds `vit_*_{shc,dhc,mhc}` to timm's registry."""

import importlib
from typing import TYPE_CHECKING, Any

from mhc_vision.api import finetune, predict, train
from mhc_vision.command_start import is_command
from mhc_vision.version import __version__

# a command answers for its words first, and then imports what it needs
if TYPE_CHECKING or not is_command():
    from mhc_vision import kernels, layers
    from mhc_vision.models import HyperEva, HyperVisionTransformer, collapse, describe, hyperconnect  # type: ignore[no-redef]

__all__ = [
    "HyperEva",
    "HyperVisionTransformer",
    "__version__",
    "collapse",
    "describe",
    "finetune",
    "hyperconnect",
    "kernels",
    "layers",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    """What is above, for modules of one's own that a command imports."""
    if name in ("kernels", "layers"):
        return importlib.import_module(f"mhc_vision.{name}")
    if name in __all__:
        return getattr(importlib.import_module("mhc_vision.models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
