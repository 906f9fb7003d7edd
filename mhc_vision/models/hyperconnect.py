"""Turn any timm ViT, pretrained or not, into a hyper-connected one with the same function, and back."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mhc_vision.checks import nearest
from mhc_vision.layers import (
    GatedReduction,
    HyperConnection,
    check_blocks,
    check_connection,
    connection_options,
)
from mhc_vision.models.eva_mhc import HyperEva
from mhc_vision.models.hyper_connected import HyperConnected, check_factor_is_normed
from mhc_vision.models.image_size import check_image_size
from mhc_vision.models.names import ModelName, split_name
from mhc_vision.models.vision_transformer_mhc import HyperVisionTransformer, HyperVisionTransformerDistilled

HYPER_MODELS: dict[type[nn.Module], type[HyperConnected]] = {
    VisionTransformer: HyperVisionTransformer,
    VisionTransformerDistilled: HyperVisionTransformerDistilled,
    Eva: HyperEva,
}
_PLAIN_MODELS = {hyper: plain for plain, hyper in HYPER_MODELS.items()}


def hyperconnect(
    model: nn.Module,
    connection: str = "mhc",
    num_streams: int = 4,
    stream_reduce: str = "mean",
    inplace: bool = False,
    stream_expand: str = "copy",
    stream_dtype: str = "model",
    **options: Any,
) -> HyperConnected:
    """Put hyper-connections in place of the residual additions of a timm model, keeping its function and its names.

    The connections start as plain residual connections, so the result computes what `model` computes, logits and
    intermediates (with `stream_reduce='sum'`, features before the final norm are n times larger; with one mHC stream,
    whose `pre` starts at 0.99995, blocks that do not norm what they read see that factor).

    timm saves and loads the result where `<architecture>_<connection>` is a registered name; of other architectures,
    save the state dict and load it into a `hyperconnect`ed model.

    Args:
        model: timm's `VisionTransformer` (also the distilled one) or `Eva`, with pre-norm or res-post-norm blocks or
            timm's `ParallelThingsBlock`.
        connection: `shc`, `dhc` or `mhc`.
        num_streams: n, from 1 to 8.
        stream_reduce: read-out of the streams: `mean`, `sum` or `gated`.
        inplace: change `model` itself; otherwise it stays as it is and a copy is changed.
        stream_expand: `copy`, which keeps the function of the model.
        stream_dtype: what streams are rounded to: `model`, `auto`, `float32` or `bfloat16`, as in
            `HyperConnected.set_stream_dtype`; of these, `model` and `float32` keep the function of an fp32 model.
        **options: of the connection, as its class describes them: `learn_pre`, `constraint`, ...

    Returns:
        The hyper-connected model; on the device, in the dtype and in the mode of `model`.

    Raises:
        ValueError: a model or blocks that are not supported, or an option out of range.
    """
    if isinstance(model, HyperConnected):
        raise ValueError(f"model: got {type(model).__name__}, expected a plain model; collapse it first")
    if type(model) not in HYPER_MODELS:
        expected = ", ".join(plain.__name__ for plain in HYPER_MODELS)
        raise ValueError(
            f"model: got {type(model).__name__}, expected one of timm's {expected} themselves, without a wrapper"
        )
    known = connection_options()
    if unknown := sorted(options.keys() - known.keys()):
        hint = nearest(unknown[0], known)
        raise ValueError(f"options: got {', '.join(unknown)}, expected some of {', '.join(known)}{hint}")
    check_connection(connection, num_streams, stream_reduce, stream_expand, stream_dtype, **options)
    if stream_expand != "copy":
        raise ValueError(
            f"stream_expand: got {stream_expand!r}, expected 'copy', which keeps the function of a plain model; "
            f"to train from scratch, use timm.create_model('<architecture>_{connection}', "
            f"stream_expand={stream_expand!r})"
        )
    check_image_size(model, type(model).__name__, *(getattr(model.patch_embed, "img_size", None) or ()))
    check_blocks(cast(nn.Module, model.blocks))
    check_factor_is_normed(model, stream_reduce)

    hyper = cast(Any, model if inplace else copy.deepcopy(model))
    # the class changes as under PyTorch's fully_shard: everything the instance holds stays where it is
    hyper.__class__ = HYPER_MODELS[type(model)]
    hyper.scale_output_init = False
    hyper.connect(connection, num_streams, stream_reduce, stream_expand, options)
    hyper.set_stream_dtype(stream_dtype)
    given = {name: value for name, value in options.items() if value is not None}
    if stream_dtype != "model":
        given["stream_dtype"] = stream_dtype
    arguments = {"num_streams": num_streams, "stream_reduce": stream_reduce, **given}
    hyper._model_args = {**getattr(hyper, "_model_args", {}), **arguments}
    _rename(hyper, lambda architecture: ModelName(architecture, connection).registered)
    return hyper


def collapse(model: HyperConnected, inplace: bool = False) -> nn.Module:
    """Undo `hyperconnect`: the plain timm model with the same weights.

    Args:
        model: hyper-connected, with all connections at their initial values, whether or not the rest was trained.
        inplace: change `model` itself; otherwise it stays as it is and a copy is changed.

    Returns:
        timm's model of the same function.

    Raises:
        ValueError: not a hyper-connected model, its streams are scaled, or a connection has left its initial values.
    """
    if type(model) not in _PLAIN_MODELS:
        raise ValueError(f"model: got {type(model).__name__}, expected a hyper-connected model")
    check_factor_is_normed(model, model.stream_reduce)
    if model.stream_expand != "copy":
        raise ValueError(
            f"model: got stream_expand={model.stream_expand!r}, expected 'copy'; scaled streams have no plain form: go "
            "on with the connected model"
        )
    moved = _moved_parameter(model)
    if moved:
        raise ValueError(f"model: got {moved} away from its initial value, expected all connections at theirs")

    plain = cast(Any, model if inplace else copy.deepcopy(model))
    plain.disconnect()
    plain.__class__ = _PLAIN_MODELS[type(model)]
    arguments = getattr(plain, "_model_args", {})
    of_connections = {
        "connection",
        "num_streams",
        "stream_reduce",
        "stream_expand",
        "scale_output_init",
        "stream_stride",
        "stream_dtype",
    }
    plain._model_args = {
        name: value for name, value in arguments.items() if name not in of_connections.union(connection_options())
    }
    _rename(plain, lambda name: split_name(name).plain)
    return plain


def _moved_parameter(model: nn.Module) -> str | None:
    """Name of a connection parameter that is not at its initial value."""
    for prefix, module in model.named_modules():
        if isinstance(module, HyperConnection | GatedReduction):
            fresh = copy.deepcopy(module)
            fresh.reset_parameters()
            for (name, value), initial in zip(module.named_parameters(prefix), fresh.parameters(), strict=True):
                if value.is_meta:
                    raise ValueError(f"model: got {name} on the meta device, expected values to compare with the start")
                if not torch.equal(value, initial):
                    return name
    return None


def _rename(model: Any, rename: Callable[[str], str]) -> None:
    """Rename the architecture in timm's record of the model, under which timm saves and loads it."""
    cfg = getattr(model, "pretrained_cfg", None)
    if cfg and cfg.get("architecture"):
        model.pretrained_cfg = model.default_cfg = {**cfg, "architecture": rename(cfg["architecture"])}
