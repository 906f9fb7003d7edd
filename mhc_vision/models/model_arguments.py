"""Arguments of timm's models that timm takes as they come."""

from collections.abc import Mapping
from typing import Any

from mhc_vision.checks import check_number, check_whole_number
from mhc_vision.kernels.checks import check_dtype


def check_model_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers that timm would make a model of NaN of, or one that ends in an error of torch's.

    Args:
        arguments: Of `timm.create_model`; others than the known ones are left to timm, as are values of other kinds
            (`num_heads` of models with stages is a list).
    """
    for name, value in arguments.items():
        if isinstance(value, list | tuple) or value is None:
            continue
        if name.endswith("drop_rate") or name == "drop_path_rate":
            check_number(name, value, at_least=0, below=1)
        elif name in ("depth", "embed_dim", "num_heads"):
            check_whole_number(name, value, at_least=1)
        elif name == "mlp_ratio":
            check_number(name, value, above=0)
        elif name == "init_values":
            check_number(name, value)
        elif name == "dtype":
            check_dtype(value)
