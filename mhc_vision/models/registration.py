"""Registers architectures with timm under `<timm's name>_<connection>`, with timm's public weights as tags."""

import dataclasses
import sys
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._registry import get_arch_pretrained_cfgs, split_model_name_tag
from torch import nn

from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.architectures import Architectures
from mhc_vision.models.image_size import check_image_size
from mhc_vision.models.names import ModelName, split_name
from mhc_vision.models.state_dicts import CheckpointFilter


def connected_default_cfgs(architectures: Architectures) -> dict[str, Any]:
    """timm's pretrained configurations of these architectures, for each of them with each connection.

    The tags keep the location of the plain weights: `pretrained=True` is a start from exactly their function.
    """
    return generate_default_cfgs(
        {
            str(ModelName(name, connection, split_model_name_tag(plain)[1])): dataclasses.replace(cfg)
            for name in architectures
            for connection in CONNECTIONS
            for plain, cfg in get_arch_pretrained_cfgs(name).items()
        }
    )


def register_architectures(
    module_name: str, model_class: type[nn.Module], architectures: Architectures, filter_fn: CheckpointFilter
) -> None:
    """Register each architecture with each connection, as functions of a module that has `default_cfgs` already.

    Args:
        module_name: `__name__` of the module; timm takes its last part for the family's name.
        model_class: hyper-connected.
        architectures: arguments by timm's name.
        filter_fn: checkpoint conversion of the family.
    """
    for name, arguments in architectures.items():
        for connection in CONNECTIONS:
            variant = ModelName(name, connection).registered
            entrypoint = partial(_create, model_class, filter_fn, variant, {"connection": connection, **arguments})
            setattr(sys.modules[module_name], variant, register_model(_as_function(entrypoint, variant, module_name)))


def _as_function(entrypoint: Any, variant: str, module_name: str) -> Any:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return entrypoint(pretrained, **kwargs)

    create.__name__ = create.__qualname__ = variant
    create.__module__ = module_name
    name = split_name(variant)
    create.__doc__ = (
        f"timm's `{name.architecture}` with `{name.connection}` connections; see `HyperConnected` for the options."
    )
    return create


def _create(
    model_class: type[nn.Module],
    filter_fn: CheckpointFilter,
    variant: str,
    arguments: dict[str, Any],
    pretrained: bool,
    **kwargs: Any,
) -> nn.Module:
    name = split_name(variant)
    # of no connection at all the model's class speaks
    if kwargs.get("connection", name.connection) != name.connection and kwargs["connection"] in CONNECTIONS:
        raise ValueError(
            f"connection: got {kwargs['connection']!r} for {variant}, expected none beside a name that says it; "
            f"give the name {name._replace(connection=kwargs['connection'])}"
        )
    if kwargs.pop("use_naflex", False):
        raise ValueError("use_naflex: got True, expected False; hyper-connected models have no NaFlex form")
    if kwargs.get("features_only") and kwargs.get("feature_cls", "getter") != "getter":
        raise ValueError(
            f"feature_cls: got {kwargs['feature_cls']!r}, expected 'getter'; hooks on blocks see streams, not tokens"
        )
    model = build_model_with_cfg(
        model_class,
        variant,
        pretrained,
        pretrained_filter_fn=partial(filter_fn, strict=kwargs.get("pretrained_strict", True)),
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **{**arguments, **kwargs},
    )
    if size := kwargs.get("img_size"):
        check_image_size(model, variant, *((size,) if isinstance(size, int) else size))
    return model
