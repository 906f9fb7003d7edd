"""Hyper-connections as modules, usable around any branch in any network."""

from mhc_vision.kernels import Coefficients
from mhc_vision.layers.blocks.connect import (
    check_block_class,
    check_blocks,
    connect_blocks,
    disconnect_blocks,
    set_stream_dtype,
)
from mhc_vision.layers.blocks.vit import HyperBlock
from mhc_vision.layers.connection import HyperConnection, Opened
from mhc_vision.layers.constraints import CONSTRAINTS, Constraint, create_constraint
from mhc_vision.layers.dynamic import DynamicHyperConnection
from mhc_vision.layers.factory import (
    CONNECTIONS,
    check_connection,
    connection_options,
    create_connection,
    default_options,
)
from mhc_vision.layers.manifold import ManifoldHyperConnection
from mhc_vision.layers.observe import (
    initial_coefficients,
    named_connections,
    observe_connections,
    observe_reduction,
    record_coefficients,
)
from mhc_vision.layers.parameters import (
    ProjectionScale,
    connection_no_weight_decay,
    connection_parameters,
    muon_fallback_list,
    projection_lr_scales,
)
from mhc_vision.layers.set_back import maps_at_start
from mhc_vision.layers.static import StaticHyperConnection
from mhc_vision.layers.streams import (
    EXPANSIONS,
    REDUCTIONS,
    STREAM_DTYPES,
    GatedReduction,
    ScaledExpansion,
    StreamExpansion,
    StreamReduction,
    create_expansion,
    create_reduction,
    expand_streams,
    reduce_streams,
)

__all__ = [
    "CONNECTIONS",
    "CONSTRAINTS",
    "EXPANSIONS",
    "REDUCTIONS",
    "STREAM_DTYPES",
    "Coefficients",
    "Constraint",
    "DynamicHyperConnection",
    "GatedReduction",
    "HyperBlock",
    "HyperConnection",
    "ManifoldHyperConnection",
    "Opened",
    "ProjectionScale",
    "ScaledExpansion",
    "StaticHyperConnection",
    "StreamExpansion",
    "StreamReduction",
    "check_block_class",
    "check_blocks",
    "check_connection",
    "connect_blocks",
    "connection_no_weight_decay",
    "connection_options",
    "connection_parameters",
    "create_connection",
    "create_constraint",
    "create_expansion",
    "create_reduction",
    "default_options",
    "disconnect_blocks",
    "expand_streams",
    "initial_coefficients",
    "maps_at_start",
    "muon_fallback_list",
    "named_connections",
    "observe_connections",
    "observe_reduction",
    "projection_lr_scales",
    "record_coefficients",
    "reduce_streams",
    "set_stream_dtype",
]
