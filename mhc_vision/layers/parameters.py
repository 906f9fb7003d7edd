"""The parameters that connections add to a model, and how optimisers treat them.

Static ones are the biases, scales and maps that all tokens share; dynamic ones are the projections with which each
token makes its own maps.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from mhc_vision.layers.connection import ConnectionModule, HyperConnection
from mhc_vision.layers.streams import GatedReduction

REFERENCE_DIM = 96
REFERENCE_STREAMS = 4
"""The width C and the streams n at which a projection has the learning rate of the static parameters."""


def connection_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Everything that connections or residual designs add to a model, named as in `model.named_parameters()`."""
    for prefix, module in model.named_modules():
        if isinstance(module, ConnectionModule):
            yield from module.named_parameters(prefix)


def own_rate_parameters(model: nn.Module) -> Iterator[str]:
    """Names of the connection parameters that learn at a rate of their own: all but the scales of an expansion."""
    for prefix, module in model.named_modules():
        if isinstance(module, ConnectionModule) and module.has_own_rate:
            yield from (name for name, _ in module.named_parameters(prefix))


class ProjectionScale(NamedTuple):
    """How fast a dynamic projection learns.

    Attributes:
        inputs: Of the projection: n·C in mHC and the gated read-out, C in DHC.
        factor: On the learning rate of the static parameters.
    """

    inputs: int
    factor: float


def projection_lr_scales(model: nn.Module) -> dict[str, ProjectionScale]:
    """How fast each dynamic projection of hyper-connections and gated read-outs learns, by its name.

    Adam moves every entry of a projection by the same amount, so a step moves what the projection makes by up to that
    amount times the number of its inputs. The factor is the inputs at `REFERENCE_DIM` and `REFERENCE_STREAMS`, divided
    by the inputs there are: maps then move alike at all widths.
    """
    scales = {}
    for prefix, module in model.named_modules():
        if isinstance(module, HyperConnection | GatedReduction):
            for name, parameter in module.named_parameters(prefix):
                if is_dynamic(name):
                    inputs = parameter.shape[-1]
                    all_streams = inputs == module.num_streams * module.dim
                    reference = REFERENCE_DIM * (REFERENCE_STREAMS if all_streams else 1)
                    scales[name] = ProjectionScale(inputs, reference / inputs)
    return scales


def is_dynamic(name: str) -> bool:
    """Whether the connection parameter of this name is a dynamic projection."""
    return name.rpartition(".")[2] == "weight"


def connection_no_weight_decay(model: nn.Module) -> set[str]:
    """Names of connection parameters without weight decay: all but the dynamic projections.

    "The static component does not utilize weight decay, whereas the dynamic component does" (HC,
    arXiv 2409.19606).
    """
    return {name for name, _ in connection_parameters(model) if not is_dynamic(name)}


def muon_fallback_list(model: nn.Module) -> list[str]:
    """Names of the connection parameters that Muon would take for weight matrices.

    Muon orthogonalises the update of every parameter with two or more dimensions. The maps of a connection and the
    projections that make them are coefficients, one entry per stream: give these names to timm as
    `create_optimizer_v2(model, opt='muon', fallback_list=muon_fallback_list(model))`, and AdamW trains them.
    """
    return [name for name, parameter in connection_parameters(model) if parameter.ndim > 1]
