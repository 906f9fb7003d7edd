"""The parameters that connections add to a model, and how optimisers treat them."""

from collections.abc import Iterator

from torch import nn

from mhc_vision.layers.connection import ConnectionModule


def connection_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Everything that connections or residual designs add to a model, named as in `model.named_parameters()`."""
    for prefix, module in model.named_modules():
        if isinstance(module, ConnectionModule):
            yield from module.named_parameters(prefix)


def connection_no_weight_decay(model: nn.Module) -> set[str]:
    """Names of connection parameters without weight decay: all but the dynamic projections.

    "The static component does not utilize weight decay, whereas the dynamic component does" (HC,
    arXiv 2409.19606).
    """
    return {name for name, _ in connection_parameters(model) if not name.endswith(".weight")}


def muon_fallback_list(model: nn.Module) -> list[str]:
    """Names of the connection parameters that Muon would take for weight matrices.

    Muon orthogonalises the update of every parameter with two or more dimensions. The maps of a connection and the
    projections that make them are coefficients, one entry per stream: give these names to timm as
    `create_optimizer_v2(model, opt='muon', fallback_list=muon_fallback_list(model))`, and AdamW trains them.
    """
    return [name for name, parameter in connection_parameters(model) if parameter.ndim > 1]
