"""The architectures registered with connections: one table per family, with timm's names and arguments."""

from functools import partial
from typing import Any

from timm.layers import LayerNorm, SwiGLUPacked
from timm.models import is_model
from torch import nn

Architectures = dict[str, dict[str, Any]]


def _vit(patch_size: int, embed_dim: int, depth: int, num_heads: int, **options: Any) -> dict[str, Any]:
    return {"patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, **options}


# average pooling of patch tokens, with or without register tokens
_GAP = {"class_token": False, "global_pool": "avg"}
_MEDIUM_GAP = {**_GAP, "qkv_bias": False, "init_values": 1e-6, "fc_norm": False}
_REG1_GAP = {**_GAP, "no_embed_class": True, "reg_tokens": 1, "init_values": 1e-5}
_REG4_GAP = {**_REG1_GAP, "reg_tokens": 4}
_SO150M = {"mlp_ratio": 2.572, "class_token": False, "reg_tokens": 4}
_SO150M_2 = {**_GAP, "mlp_ratio": 34 / 13, "init_values": 1e-5, "qkv_bias": False, "reg_tokens": 1}
_DINOV2 = {"init_values": 1e-5}
_DINOV2_REG4 = {**_DINOV2, "reg_tokens": 4, "no_embed_class": True}
_DINOV2_GIANT = {"mlp_ratio": 2.66667 * 2, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}

VISION_TRANSFORMERS: Architectures = {
    "vit_tiny_patch16_224": _vit(16, 192, 12, 3),
    "vit_tiny_patch16_384": _vit(16, 192, 12, 3),
    "vit_small_patch32_224": _vit(32, 384, 12, 6),
    "vit_small_patch16_224": _vit(16, 384, 12, 6),
    "vit_small_patch16_384": _vit(16, 384, 12, 6),
    "vit_base_patch32_224": _vit(32, 768, 12, 12),
    "vit_base_patch16_224": _vit(16, 768, 12, 12),
    "vit_base_patch16_384": _vit(16, 768, 12, 12),
    "vit_large_patch16_224": _vit(16, 1024, 24, 16),
    "vit_large_patch16_384": _vit(16, 1024, 24, 16),
    "vit_large_patch14_224": _vit(14, 1024, 24, 16),
    "vit_huge_patch14_224": _vit(14, 1280, 32, 16),
    "vit_medium_patch16_gap_240": _vit(16, 512, 12, 8, **_MEDIUM_GAP),
    "vit_medium_patch16_gap_256": _vit(16, 512, 12, 8, **_MEDIUM_GAP),
    "vit_medium_patch16_gap_384": _vit(16, 512, 12, 8, **_MEDIUM_GAP),
    "vit_base_patch16_gap_224": _vit(16, 768, 12, 16, fc_norm=False, **_GAP),
    "vit_wee_patch16_reg1_gap_256": _vit(16, 256, 14, 4, mlp_ratio=5, **_REG1_GAP),
    "vit_little_patch16_reg1_gap_256": _vit(16, 320, 14, 5, mlp_ratio=5.6, **_REG1_GAP),
    "vit_little_patch16_reg4_gap_256": _vit(16, 320, 14, 5, mlp_ratio=5.6, **_REG4_GAP),
    "vit_medium_patch16_reg1_gap_256": _vit(16, 512, 12, 8, **_REG1_GAP),
    "vit_medium_patch16_reg4_gap_256": _vit(16, 512, 12, 8, **_REG4_GAP),
    "vit_mediumd_patch16_reg4_gap_256": _vit(16, 512, 20, 8, **_REG4_GAP),
    "vit_mediumd_patch16_reg4_gap_384": _vit(16, 512, 20, 8, **_REG4_GAP),
    "vit_betwixt_patch16_reg1_gap_256": _vit(16, 640, 12, 10, **_REG1_GAP),
    "vit_betwixt_patch16_reg4_gap_256": _vit(16, 640, 12, 10, **_REG4_GAP),
    "vit_betwixt_patch16_reg4_gap_384": _vit(16, 640, 12, 10, **_REG4_GAP),
    "vit_base_patch16_reg4_gap_256": _vit(16, 768, 12, 12, **{**_REG4_GAP, "init_values": None}),
    "vit_so150m_patch16_reg4_gap_256": _vit(16, 896, 18, 14, global_pool="avg", fc_norm=False, **_SO150M),
    "vit_so150m_patch16_reg4_gap_384": _vit(16, 896, 18, 14, global_pool="avg", fc_norm=False, **_SO150M),
    "vit_so150m_patch16_reg4_map_256": _vit(16, 896, 18, 14, global_pool="map", **_SO150M),
    "vit_so150m2_patch16_reg1_gap_256": _vit(16, 832, 21, 13, **_SO150M_2),
    "vit_so150m2_patch16_reg1_gap_384": _vit(16, 832, 21, 13, **_SO150M_2),
    "vit_so150m2_patch16_reg1_gap_448": _vit(16, 832, 21, 13, **_SO150M_2),
    "vit_small_patch14_dinov2": _vit(14, 384, 12, 6, **_DINOV2),
    "vit_base_patch14_dinov2": _vit(14, 768, 12, 12, **_DINOV2),
    "vit_large_patch14_dinov2": _vit(14, 1024, 24, 16, **_DINOV2),
    "vit_giant_patch14_dinov2": _vit(14, 1536, 40, 24, **_DINOV2, **_DINOV2_GIANT),
    "vit_small_patch14_reg4_dinov2": _vit(14, 384, 12, 6, **_DINOV2_REG4),
    "vit_base_patch14_reg4_dinov2": _vit(14, 768, 12, 12, **_DINOV2_REG4),
    "vit_large_patch14_reg4_dinov2": _vit(14, 1024, 24, 16, **_DINOV2_REG4),
    "vit_giant_patch14_reg4_dinov2": _vit(14, 1536, 40, 24, **_DINOV2_REG4, **_DINOV2_GIANT),
    "test_vit": _vit(16, 64, 6, 2, mlp_ratio=3, dynamic_img_size=True),
}

_DINOV3 = {
    "dynamic_img_size": True,
    "init_values": 1e-5,
    "num_reg_tokens": 4,
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "use_fc_norm": False,
    "norm_layer": partial(LayerNorm, eps=1e-5),
}
_SWIGLU_8 = {"swiglu_mlp": True, "swiglu_align_to": 8}
_SWIGLU_64 = {"swiglu_mlp": True, "swiglu_align_to": 64, "mlp_ratio": 2}
# with (`_qkvb`) or without biases of q and v
_DINOV3_SIZES = {
    "vit_tiny_patch16_dinov3_qkvb": _vit(16, 192, 12, 3),
    "vit_small_patch16_dinov3": _vit(16, 384, 12, 6),
    "vit_small_patch16_dinov3_qkvb": _vit(16, 384, 12, 6),
    "vit_small_plus_patch16_dinov3": _vit(16, 384, 12, 6, **_SWIGLU_8),
    "vit_small_plus_patch16_dinov3_qkvb": _vit(16, 384, 12, 6, **_SWIGLU_8),
    "vit_base_patch16_dinov3": _vit(16, 768, 12, 12),
    "vit_base_patch16_dinov3_qkvb": _vit(16, 768, 12, 12),
    "vit_large_patch16_dinov3": _vit(16, 1024, 24, 16),
    "vit_large_patch16_dinov3_qkvb": _vit(16, 1024, 24, 16),
    "vit_huge_plus_patch16_dinov3": _vit(16, 1280, 32, 20, **_SWIGLU_8),
    "vit_huge_plus_patch16_dinov3_qkvb": _vit(16, 1280, 32, 20, **_SWIGLU_8),
    "vit_7b_patch16_dinov3": _vit(16, 4096, 40, 32, **_SWIGLU_64),
}

# timm has had the tiny one since 1.0.28
EVAS: Architectures = {
    name: {**size, **_DINOV3, "qkv_bias": name.endswith("_qkvb")}
    for name, size in _DINOV3_SIZES.items()
    if is_model(name)
}
