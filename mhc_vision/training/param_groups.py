"""Parameter groups: with or without weight decay, backbone or connection (static, dynamic), and layer by layer."""

from typing import Any

from timm.models import group_parameters
from torch import nn

from mhc_vision.checks import check_number
from mhc_vision.layers import projection_lr_scales
from mhc_vision.layers.parameters import is_dynamic, own_rate_parameters


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    connection_lr_scale: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Sorts the trainable parameters into named groups for an optimiser.

    Weight decay follows timm: none for vectors, scalars, biases and the names in `model.no_weight_decay()`. Static
    parameters of the connections learn at `lr * connection_lr_scale`, their dynamic projections at that times
    384/(n·C), in DHC 96/C, so that a scale found at one width holds at others (`layers.projection_lr_scales`). AdamW's
    decoupled decay is scaled with the rate. The scales of an expansion learn with the backbone, without decay.

    With `layer_decay` below 1, the layers of the backbone learn the slower the farther they are from the head: at
    `lr * layer_decay ** distance`, where the head is at distance 0, each block is a layer, and the embeddings below
    the first block are one (BEiT, arXiv 2106.08254, by timm's `group_matcher`). Connections are left out: where a plain
    model is fine-tuned they are new, as the head is.

    Args:
        model: A timm model, plain or hyper-connected.
        lr: Learning rate of the backbone, with `layer_decay` of the head.
        weight_decay: Weight decay where there is any.
        connection_lr_scale: Factor on the connections' learning rate.
        layer_decay: Factor on the learning rate from one layer to the one below it; 1 for none.

    Returns:
        Group dicts with `name`, `params`, `lr` and `weight_decay`, the backbone's first; groups without parameters are
        left out. With `layer_decay` the names of the backbone's end with the layer, counted from the bottom, and the
        head's come first: `backbone_no_decay.3`. Those of the connections are `connection_static`, without decay, and
        `connection_dynamic.384`, with the number of inputs of a projection at the end.

    Raises:
        ValueError: If `connection_lr_scale` is not positive, `layer_decay` is not in (0, 1], or timm does not know the
            layers of the model.
    """
    check_number("connection_lr_scale", connection_lr_scale, above=0)
    layers = _layers(model, layer_decay)
    top = max(layers.values(), default=0)
    # a method by timm's convention, not one of nn.Module
    undecayed_names: set[str] = getattr(model, "no_weight_decay", set)()
    projections = projection_lr_scales(model)
    part_of = {name: f"backbone.{layers[name]}" if layers else "backbone" for name, _ in model.named_parameters()}
    for name in own_rate_parameters(model):
        part_of[name] = "connection_dynamic" if is_dynamic(name) else "connection_static"
    part_of |= {name: f"connection_dynamic.{scale.inputs}" for name, scale in projections.items()}
    rates = {"backbone": lr}
    if layers:
        rates = {f"backbone.{layer}": lr * layer_decay ** (top - layer) for layer in range(top, -1, -1)}
    rates |= dict.fromkeys(("connection_static", "connection_dynamic"), lr * connection_lr_scale)
    for scale in projections.values():
        rates[f"connection_dynamic.{scale.inputs}"] = lr * connection_lr_scale * scale.factor
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for part, rate in rates.items():
        for decayed in (True, False):
            kind, dot, layer = part.partition(".")
            name = f"{kind}_no_decay{dot}{layer}" if kind == "backbone" and not decayed else part
            groups[part, decayed] = {"name": name, "params": [], "lr": rate, "weight_decay": weight_decay * decayed}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            undecayed = parameter.ndim <= 1 or name.endswith(".bias") or name in undecayed_names
            groups[part_of[name], not undecayed]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _layers(model: nn.Module, layer_decay: float) -> dict[str, int]:
    """Layer of each parameter, counted from the bottom; empty where all layers learn alike."""
    check_number("layer_decay", layer_decay, above=0, at_most=1)
    if layer_decay == 1.0:
        return {}
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise ValueError(
            f"layer_decay: got {layer_decay}, expected 1: {type(model).__name__} has no group_matcher of layers"
        )
    layers: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    return layers
