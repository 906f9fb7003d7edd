"""`config.json` of a directory that timm loads, or of a model on the Hub: checked before timm builds anything of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model, parse_model_name
from timm.models._hub import download_from_hf

from mhc_vision.checks import nearest
from mhc_vision.json_files import read_json_object
from mhc_vision.stored.checkpoint_schema import MOST_PIXELS
from mhc_vision.stored.model_args import check_model_args_of_file
from mhc_vision.stored.value_kinds import (
    FLAG,
    MAPPING,
    TEXT,
    Kind,
    check_fields,
    list_of,
    number,
    optional,
    whole,
)
from mhc_vision.stored.weights import check_repeats, short_reason

CONFIG_FILE = "config.json"

_SIZE = optional(list_of(whole(1, MOST_PIXELS), 3, "sizes (channels, height, width)"))
_NAMES = Kind(
    "a list of names, or a mapping from indices to names",
    lambda value: (
        (isinstance(value, list) and all(isinstance(name, str) for name in value))
        or (MAPPING.fits(value) and all(key.isdecimal() and isinstance(name, str) for key, name in value.items()))
    ),
)
_MODULES = optional(Kind("a name or a list of names", lambda value: TEXT.fits(value) or list_of(TEXT).fits(value)))
_TOP: dict[str, Kind] = {
    "architecture": TEXT,
    "num_classes": optional(whole(-1)),
    "num_features": optional(whole(0)),
    "label_names": optional(_NAMES),
    "labels": optional(_NAMES),
    "label_descriptions": optional(MAPPING),
    "pretrained_cfg": MAPPING,
    "model_args": MAPPING,
}
_PRETRAINED: dict[str, Kind] = {
    "num_classes": optional(whole(-1)),
    "input_size": _SIZE,
    "test_input_size": _SIZE,
    "min_input_size": _SIZE,
    "fixed_input_size": FLAG,
    "mean": optional(list_of(number())),
    "std": optional(list_of(number(above=0))),
    "crop_pct": optional(number(above=0)),
    "test_crop_pct": optional(number(above=0)),
    "crop_mode": optional(TEXT),
    "interpolation": optional(TEXT),
    "label_names": optional(_NAMES),
    "label_descriptions": optional(MAPPING),
    "label_offset": optional(whole(0)),
    "first_conv": _MODULES,
    "classifier": _MODULES,
    "notes": optional(list_of(TEXT)),
    "architecture": TEXT,
}


def check_model_source(source: str) -> None:
    """Look through what a directory or the Hub says of a model; nothing for plain names.

    Args:
        source: What `timm.create_model` takes.

    Raises:
        ValueError: There is no such configuration, an entry is of the wrong kind, asks timm for something else
            than a model, or for a larger one than the weights are of.
    """
    try:
        kind, name = parse_model_name(source)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"model: {source}: {error}") from error
    # earlier releases of timm give an empty text
    if not kind:
        return
    if kind == "local-dir":
        directory = Path(name)
        content = check_config(directory / CONFIG_FILE)
        most = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
        _check_size(source, content, most)
        return
    try:
        path = download_from_hf(name, CONFIG_FILE)
    # the client's errors, and those of the network below it
    except Exception as error:
        raise ValueError(f"model: {source} cannot be loaded: {short_reason(error)}") from error
    check_config(Path(path))


def check_config(path: Path) -> dict[str, Any]:
    """Raise ValueError unless a `config.json` is of timm's form; else what it holds."""
    content = read_json_object("model", path, needed=("architecture",))
    where = f"model: {path}"
    check_fields(where, content, {**_PRETRAINED, **_TOP})
    architecture = content["architecture"]
    if not is_model(architecture):
        raise ValueError(
            f"{where}: architecture: got {architecture!r}, expected a timm model"
            f"{nearest(architecture, timm.list_models())}"
        )
    described = content.get("pretrained_cfg", {})
    check_fields(f"{where}: pretrained_cfg", described, _PRETRAINED)
    if described.get("architecture", architecture) != architecture:
        raise ValueError(
            f"{where}: pretrained_cfg.architecture: got {described['architecture']!r}, expected {architecture!r} as in "
            "architecture"
        )
    arguments = content.get("model_args", {})
    check_model_args_of_file(f"{where}: model_args", arguments, of_run=False)
    check_repeats(f"{where}: model_args", arguments, None)
    classes = content.get("num_classes", described.get("num_classes"))
    if classes is not None and arguments.get("num_classes", classes) != classes:
        # timm would leave the head's weights out, without a word
        raise ValueError(
            f"{where}: model_args.num_classes: got {arguments['num_classes']!r}, expected {classes} as in num_classes"
        )
    return content


def _check_size(source: str, content: Mapping[str, Any], most: int) -> None:
    """Raise ValueError if the model has more weights than its directory has bytes."""
    try:
        with torch.device("meta"):
            model = timm.create_model(source, pretrained=False)
    # of values that are each of the right kind and together make no sense, timm's classes say so in many ways
    except Exception as error:
        raise ValueError(f"model: {source}: no model can be built of {CONFIG_FILE}: {short_reason(error)}") from error
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > most:
        raise ValueError(
            f"model: {source} cannot be loaded: {CONFIG_FILE} describes {content['architecture']} with {count:,} "
            f"weights, which {most:,} bytes of files cannot hold"
        )
