"""Which arguments of `timm.create_model` a file may hold: those of the model's class, never what else timm does.

A person may give `model_args` with a file to read weights from, at the command line. The record of such a run, or a
file of somebody else's, may not: a model that is built from a record has its weights there, and nothing else is read.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from timm.models import build_model_with_cfg, create_model

from mhc_vision.stored.value_kinds import MAPPING, PLAIN, shown

# where weights come from, and how much of them must fit
_SOURCES = ("checkpoint_path", "cache_dir", "pretrained_strict")
_DESCRIPTIONS = ("pretrained_cfg", "pretrained_cfg_overlay")
# what a description of weights says of images; all else in it says where weights lie and what fits them
_OF_IMAGES = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
# they change how layers are traced, not what is built
_HARMLESS = {"scriptable", "exportable", "no_jit", "kwargs", "model_name"}
REFUSED = frozenset(
    {*inspect.signature(create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    # taken out of the arguments by timm, so not in the signatures
    | {"features_only", "feature_cls", "out_indices", "pruned"}
    # of descriptions of weights
    | {"file", "url", "hf_hub_id", "hf_hub_filename", "state_dict", "custom_load", "source"}
) - _HARMLESS - {*_SOURCES, *_DESCRIPTIONS}  # fmt: skip
"""Keys that no legitimate record has."""


def check_model_args_of_file(where: str, model_args: Any, *, of_run: bool) -> dict[str, Any]:
    """The arguments of a model that a file may decide on.

    Args:
        where: What an error calls them.
        model_args: As read.
        of_run: Whether a run may have recorded them, at whose command line a person may have said where to read
            weights; else that is refused, too.

    Returns:
        A copy without what only said where weights were read once; of a description of weights stays what it says of
        images.

    Raises:
        ValueError: They are no mapping of plain values, or hold a key that asks timm for something else than the model.
    """
    MAPPING.check(where, model_args)
    for key, value in model_args.items():
        if key in REFUSED or (not of_run and key in (*_SOURCES, *_DESCRIPTIONS)):
            raise ValueError(
                f"{where}.{key}: got {shown(value)}, expected no such key: a file decides on the layers of a model, "
                "not on where weights come from or what is built around it"
            )
        PLAIN.check(f"{where}.{key}", value)
    return without_weight_sources(model_args)


def without_weight_sources(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model that has its weights: for records, from which it is built again."""
    kept = {key: value for key, value in model_args.items() if key not in (*_SOURCES, *_DESCRIPTIONS)}
    for key in _DESCRIPTIONS:
        value = model_args.get(key)
        if isinstance(value, str):
            # a tag of timm's registry
            kept[key] = value
        elif isinstance(value, Mapping) and (of_images := {name: value[name] for name in _OF_IMAGES if name in value}):
            kept[key] = of_images
    return kept
