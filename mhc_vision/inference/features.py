"""Features of a timm model: what its head pools, its class token, its patch tokens, and where its last block looks."""

from collections.abc import Callable
from typing import Any

import torch
from timm.utils import AttentionExtract
from torch import Tensor, nn

from mhc_vision.checks import check_choice
from mhc_vision.inference.load_model import LoadedModel

FEATURES = ("head", "cls", "mean", "patches")


def feature_function(loaded: LoadedModel, features: str) -> Callable[[Tensor], Tensor]:
    """What gives features of normalised images, (B, 3, H, W).

    Tokens are taken after the model's final norm; models that norm what they have pooled have none there.

    Args:
        loaded: A timm model, plain or hyper-connected.
        features: `head` for what the model's own head pools, (B, C); `cls` for the class token, (B, C); `mean` for the
            mean of the patch tokens, (B, C); `patches` for their map, (B, H / patch, W / patch, C).

    Raises:
        ValueError: If the model has no such features.
    """
    check_choice("features", features, FEATURES)
    model: Any = loaded.model
    if features == "head":
        if not hasattr(model, "forward_head"):
            raise ValueError(f"features: got 'head' for {loaded.source}, expected a model with timm's forward_head")
        return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)
    check_tokens(loaded, f"features: got {features!r}")
    if features == "cls" and getattr(model, "cls_token", None) is None:
        raise ValueError(
            f"features: got 'cls' for {loaded.source}, which has no class token, expected head, mean or patches"
        )

    def of_tokens(images: Tensor) -> Tensor:
        tokens = model.forward_features(images)
        if features == "cls":
            return tokens[:, 0]
        patches = tokens[:, model.num_prefix_tokens :]
        return patches.mean(1) if features == "mean" else patches.unflatten(1, _grid(model, images))

    return of_tokens


def check_tokens(loaded: LoadedModel, asked: str) -> None:
    """Raise ValueError unless the model is a ViT of timm, whose tokens are class and registers first, then patches.

    Args:
        loaded: The model.
        asked: How the error begins: what needs tokens.
    """
    is_vit = hasattr(loaded.model, "num_prefix_tokens") and hasattr(loaded.model, "blocks")
    if not (is_vit and hasattr(getattr(loaded.model, "patch_embed", None), "dynamic_feat_size")):
        raise ValueError(f"{asked} for {loaded.source}, expected a ViT, which has patch tokens")


def last_attention_name(loaded: LoadedModel) -> str:
    """Name of the module with the attention of the last block.

    Raises:
        ValueError: If the model is no ViT of timm, or timm's `AttentionExtract` does not know its blocks' attention.
    """
    check_tokens(loaded, "attention: asked")
    names = [name for name, part in loaded.model.named_modules() if hasattr(part, "fused_attn")]
    of_blocks = [name for name in names if name.startswith("blocks.")]
    if not of_blocks:
        raise ValueError(f"attention: asked for {loaded.source}, expected blocks with timm's attention")
    return of_blocks[-1]


@torch.inference_mode()
def last_attention(loaded: LoadedModel, images: Tensor) -> Tensor:
    """How much the class token attends to each patch in the last block; without a class token, the mean patch.

    Connections leave the attention inside a branch as it is.

    Args:
        loaded: A ViT of timm, plain or hyper-connected.
        images: Normalised, (B, 3, H, W).

    Returns:
        (B, H / patch, W / patch), fp32, the mean over heads.

    Raises:
        ValueError: As `last_attention_name`.
    """
    name = last_attention_name(loaded)
    model: Any = loaded.model
    attention: Any = model.get_submodule(name)
    kept = {part: getattr(attention, part) for part in ("fused_attn", "attn_drop")}
    # fused attention makes no map; the extractor leaves its hook behind, here on a module that goes again
    attention.fused_attn, attention.attn_drop = False, nn.Identity()
    try:
        (weights,) = AttentionExtract(model, [f"{name}.attn_drop"], method="hook")(images).values()
    finally:
        for part, value in kept.items():
            setattr(attention, part, value)
    # (B, heads, queries, keys)
    to_patches = weights.float().mean(1)[..., model.num_prefix_tokens :]
    has_class = getattr(model, "cls_token", None) is not None
    of_query = to_patches[:, 0] if has_class else to_patches[:, model.num_prefix_tokens :].mean(1)
    return of_query.unflatten(1, _grid(model, images))


def _grid(model: Any, images: Tensor) -> tuple[int, int]:
    height, width = model.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
    return height, width
