"""Residual designs of a ViT to compare hyper-connections with: timm's modules, connected in other ways."""

from mhc_vision.models.designs.alt_up import AltUpBlock, AltUpConnection
from mhc_vision.models.designs.apply import DESIGNS, DesignedVisionTransformer, apply_design, create_with_design
from mhc_vision.models.designs.attn_res import AttnResBlock, DepthAttention
from mhc_vision.models.designs.block import DesignedBlock
from mhc_vision.models.designs.mudd import DepthAggregate, MuddBlock
from mhc_vision.models.designs.post_norm import PostNormBlock
from mhc_vision.models.designs.resi_dual import ResiDualBlock, ResiDualNorm

__all__ = [
    "DESIGNS",
    "AltUpBlock",
    "AltUpConnection",
    "AttnResBlock",
    "DepthAggregate",
    "DepthAttention",
    "DesignedBlock",
    "DesignedVisionTransformer",
    "MuddBlock",
    "PostNormBlock",
    "ResiDualBlock",
    "ResiDualNorm",
    "apply_design",
    "create_with_design",
]
