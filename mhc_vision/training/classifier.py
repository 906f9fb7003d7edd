"""Build the model of a run: a timm model, plain or hyper-connected."""

import difflib
from typing import Any

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models import get_pretrained_cfg
from torch import nn

from mhc_vision.layers import CONNECTIONS

_OWN_ARGUMENTS = ("num_classes", "in_chans", "img_size", "pretrained", "num_streams")


def create_classifier(
    name: str,
    *,
    connection: str | None,
    num_streams: int,
    num_classes: int,
    in_chans: int = 3,
    img_size: int | None = None,
    pretrained: bool = False,
    model_args: dict[str, Any] | None = None,
) -> nn.Module:
    """Creates a timm classifier, with hyper-connections if `connection` is given.

    Args:
        name: timm's name of the plain model, with or without a weight tag: `vit_base_patch16_224`.
        connection: `None` for the plain model, else `"shc"`, `"dhc"` or `"mhc"`.
        num_streams: Residual streams; the plain model has one and does not look at it.
        num_classes: Outputs of the head.
        in_chans: Channels of the images.
        img_size: Side of the square images in pixels; `None` takes the model's own.
        pretrained: Load timm's weights.
        model_args: Further arguments of `timm.create_model`, options of the connection included.

    Raises:
        ValueError: If the name, the connection or an argument in `model_args` is unknown.
    """
    full_name = registered_name(name, connection)
    arguments = dict(model_args or {})
    if taken := sorted(set(arguments) & set(_OWN_ARGUMENTS)):
        raise ValueError(f"model_args must not hold {taken}: set them as arguments of the model itself")
    # timm's convolutional models take no img_size: leave it out when it says nothing new
    default_cfg = get_pretrained_cfg(name)
    if img_size is not None and (default_cfg is None or img_size != default_cfg.input_size[-1]):
        arguments["img_size"] = img_size
    if connection is not None:
        arguments["num_streams"] = num_streams
    try:
        return timm.create_model(
            full_name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **arguments
        )
    except TypeError as error:
        raise ValueError(f"{full_name} does not take these arguments {arguments}: {error}") from error


def freeze_sincos_pos_embed(model: nn.Module) -> None:
    """Replaces a ViT's learned position embedding by the fixed 2-D sine-cosine table of Better plain ViT (2205.01580).

    timm's ViTs only know learned embeddings. The table is written into the same parameter, so checkpoints keep timm's
    keys, and the parameter is frozen.

    Raises:
        ValueError: If the position embedding has not one row per patch; a class token has no place on the grid.
    """
    pos_embed = getattr(model, "pos_embed", None)
    patch_embed = getattr(model, "patch_embed", None)
    if not isinstance(pos_embed, nn.Parameter) or patch_embed is None:
        raise ValueError(f"fixed_pos_embed needs a model with a position embedding, {type(model).__name__} has none")
    dim = pos_embed.shape[-1]
    if pos_embed.shape[1] != patch_embed.num_patches or dim % 4:
        raise ValueError(
            f"fixed_pos_embed='sincos2d' needs one position for each of the {patch_embed.num_patches} patches and an "
            f"embed_dim divisible by 4, the model has {pos_embed.shape[1]} positions of {dim}: "
            "set model_args.class_token to false"
        )
    table = build_sincos2d_pos_embed(list(patch_embed.grid_size), dim, device=pos_embed.device)
    with torch.no_grad():
        pos_embed.copy_(table.view_as(pos_embed))
    pos_embed.requires_grad_(False)


def registered_name(name: str, connection: str | None) -> str:
    """timm's name of the plain model `name`, with or without a tag, when it has this connection.

    Raises:
        ValueError: If the name or the connection is unknown, or the model has no such variant.
    """
    architecture, dot, tag = name.partition(".")
    if connection is not None and connection not in CONNECTIONS:
        raise ValueError(f"connection must be null or one of {', '.join(CONNECTIONS)}, got {connection!r}")
    for suffix in CONNECTIONS:
        if architecture.endswith(f"_{suffix}"):
            plain = architecture.removesuffix(f"_{suffix}")
            raise ValueError(
                f"name must be the plain model: give name {plain!r} with connection {suffix!r}, got {name!r}"
            )
    known = timm.list_models()
    if architecture not in known:
        raise ValueError(f"unknown timm model {name!r}{nearest_names(architecture)}")
    if connection is None:
        return name
    if f"{architecture}_{connection}" not in known:
        offered = [entry.removesuffix(f"_{connection}") for entry in timm.list_models(f"*_{connection}")]
        raise ValueError(f"{name!r} has no {connection} variant; models with one: {', '.join(offered)}")
    return f"{architecture}_{connection}{dot}{tag}"


def nearest_names(architecture: str) -> str:
    """The end of a message about an unknown architecture: registered names like it, or an empty text."""
    nearest = difflib.get_close_matches(architecture, timm.list_models(), n=5)
    return f"; nearest: {', '.join(nearest)}" if nearest else ""
