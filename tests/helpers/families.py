"""timm's two model classes at a size that runs in milliseconds: 16 patches of 16 x 16 images, 10 classes."""

from dataclasses import dataclass, replace
from typing import Any

import timm
from torch import nn


@dataclass(frozen=True)
class Family:
    """A plain and a hyper-connected model of the same options."""

    name: str
    options: dict[str, Any]

    def having(self, **options: Any) -> "Family":
        return replace(self, options={**self.options, **options})

    def plain(self, **options: Any) -> nn.Module:
        return timm.create_model(self.name, **{**self.options, **options})

    def connected(self, connection: str, **options: Any) -> nn.Module:
        return timm.create_model(f"{self.name}_{connection}", **{**self.options, **options})


# `blocks` is an nn.Sequential in the one and an nn.ModuleList in the other
VIT = Family("test_vit", {"img_size": 16, "patch_size": 4, "depth": 2, "num_classes": 10})
# timm starts DINOv3's LayerScale at 1e-5, which would hide the branches
EVA = Family("vit_small_patch16_dinov3_qkvb", {**VIT.options, "embed_dim": 64, "num_heads": 2, "init_values": 0.5})
