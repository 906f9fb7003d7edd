"""Build the model of a run: a timm model, plain, hyper-connected or of another residual design."""

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models import get_pretrained_cfg
from torch import nn

from mhc_vision.checks import check_choice, nearest
from mhc_vision.layers import CONNECTIONS, connection_options
from mhc_vision.models.designs import DESIGNS, create_with_design
from mhc_vision.models.hyper_connected import UnknownArgument
from mhc_vision.models.hyperconnect import hyperconnect
from mhc_vision.models.image_size import check_image_size
from mhc_vision.models.model_arguments import check_model_arguments
from mhc_vision.models.names import split_name

_KNOWN_CONNECTIONS = (*CONNECTIONS, *DESIGNS)
if TYPE_CHECKING:
    ConnectionName = str
else:
    # the names as a type, from which the command line takes its choices
    ConnectionName = Literal[_KNOWN_CONNECTIONS]

OWN_ARGUMENTS = ("num_classes", "in_chans", "img_size", "pretrained", "num_streams")
"""Of `create_classifier`, which `model_args` must not hold."""

_OF_STREAMS = ("stream_reduce", "stream_expand", "stream_dtype")


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
    """Creates a timm classifier, with hyper-connections or another residual design if `connection` is given.

    Args:
        name: timm's name of the plain model, with or without a weight tag: `vit_base_patch16_224`.
        connection: `None` for the plain model; a hyper-connection (`"shc"`, `"dhc"`, `"mhc"`); or a design to compare
            these with, such as `"post_norm"` or `"mudd"` (see `DESIGNS` in `mhc_vision.models.designs`).
        num_streams: Residual streams of hyper-connections and of AltUp; other models do not look at it.
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
    check_model_args(arguments)
    # timm's convolutional models take no img_size: leave it out when it says nothing new
    default_cfg = get_pretrained_cfg(name)
    if img_size is not None and (default_cfg is None or img_size != default_cfg.input_size[-1]):
        arguments["img_size"] = img_size
    arguments.update(num_classes=num_classes, in_chans=in_chans)
    if connection in CONNECTIONS:
        arguments["num_streams"] = num_streams
    try:
        if connection in DESIGNS:
            model = create_with_design(full_name, connection, num_streams, pretrained=pretrained, **arguments)
        else:
            model = timm.create_model(full_name, pretrained=pretrained, **arguments)
    except UnknownArgument:
        raise
    except TypeError as error:
        raise ValueError(
            f"model_args: got {arguments}, expected arguments of {full_name}: {error}{_like(error)}"
        ) from error
    if img_size is not None:
        check_image_size(model, full_name, img_size)
    return model


def rebuild_classifier(
    name: str, *, connection: str | None, num_streams: int, model_args: dict[str, Any] | None = None, **arguments: Any
) -> nn.Module:
    """The architecture of `create_classifier`, also where only `hyperconnect` has made such a model before.

    timm has names for some plain models with connections; all others that `hyperconnect` takes can be fine-tuned, too.

    Args:
        name: As in `create_classifier`.
        connection: The same.
        num_streams: The same.
        model_args: The same.
        **arguments: The others of `create_classifier`.

    Raises:
        ValueError: As `create_classifier` and `hyperconnect`.
    """
    if connection not in CONNECTIONS or timm.is_model(split_name(name)._replace(connection=connection).registered):
        return create_classifier(
            name, connection=connection, num_streams=num_streams, model_args=model_args, **arguments
        )
    of_connection, of_timm = split_options(model_args or {})
    plain = create_classifier(name, connection=None, num_streams=1, model_args=of_timm, **arguments)
    return hyperconnect(plain, connection, num_streams, inplace=True, **of_connection)


def _like(error: TypeError) -> str:
    """Arguments like one that a model does not take."""
    if match := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
        of_timm = inspect.signature(timm.models.VisionTransformer.__init__).parameters
        return nearest(match[1], [*connection_options(), *_OF_STREAMS, *of_timm])
    return ""


def split_options(model_args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of `model_args` that belong to connections, and those of timm's model."""
    names = {*_OF_STREAMS, *connection_options()}
    return (
        {name: value for name, value in model_args.items() if name in names},
        {name: value for name, value in model_args.items() if name not in names},
    )


def check_model_args(model_args: Mapping[str, Any]) -> None:
    """Raise ValueError if `model_args` hold what has an argument of its own, or a number out of range."""
    if taken := sorted(set(model_args) & set(OWN_ARGUMENTS)):
        raise ValueError(f"model_args: got {taken}, expected other ones; set these as arguments of the model itself")
    check_model_arguments(model_args)


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
        raise ValueError(f"fixed_pos_embed: got {type(model).__name__}, expected a model with a position embedding")
    dim = pos_embed.shape[-1]
    if pos_embed.shape[1] != patch_embed.num_patches or dim % 4:
        raise ValueError(
            f"fixed_pos_embed: got a model with {pos_embed.shape[1]} positions of {dim}, expected one position for "
            f"each of the {patch_embed.num_patches} patches and an embed_dim divisible by 4; set "
            "model_args.class_token to false"
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
    parts = split_name(name)
    if connection is not None:
        check_choice("connection", connection, _KNOWN_CONNECTIONS)
    if parts.connection is not None:
        raise ValueError(
            f"name: got {name!r}, expected the plain model; give name {parts.plain!r} with connection "
            f"{parts.connection!r}"
        )
    known = timm.list_models()
    if parts.architecture not in known:
        raise ValueError(f"name: got {name!r}, expected a timm model{nearest(parts.architecture, known)}")
    if connection not in CONNECTIONS:
        return name
    connected = parts._replace(connection=connection)
    if connected.registered not in known:
        offered = [split_name(entry).architecture for entry in timm.list_models(f"*_{connection}")]
        hint = nearest(parts.architecture, offered) or f"; models with one: {', '.join(offered)}"
        raise ValueError(f"name: got {name!r}, expected a model with the connection {connection!r}{hint}")
    return str(connected)
