"""What a checkpoint of a run must hold, checked before anything is built from it or restored from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from packaging.version import InvalidVersion, Version

from mhc_vision import data as data_modules
from mhc_vision.data.datamodule import Metric
from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.designs import DESIGNS
from mhc_vision.models.segmenter import DECODER_SETTINGS, DECODERS
from mhc_vision.stored.model_args import check_model_args_of_file
from mhc_vision.stored.model_notes import LOSSES
from mhc_vision.stored.value_kinds import (
    FLAG,
    MAPPING,
    TEXT,
    Kind,
    check_fields,
    either,
    list_of,
    number,
    one_of,
    optional,
    shown,
    whole,
)
from mhc_vision.stored.weights import check_state

MODEL_SETTINGS = ("name", "connection", "num_streams", "num_classes", "in_chans", "img_size", "model_args")
"""The arguments of `create_classifier` among the hyper-parameters of a run."""

MOST_PIXELS = 16_384
"""Of an image's side: more would not fit in memory, whatever the model."""

_LORA = {
    "lora_rank": whole(1),
    "lora_alpha": number(above=0),
    "lora_dropout": number(0, 1),
    "lora_targets": list_of(TEXT, what="ends of names"),
}
_SETTINGS: dict[str, Kind] = {
    "name": TEXT,
    "connection": one_of(None, *CONNECTIONS, *DESIGNS),
    "num_streams": whole(1),
    "num_classes": whole(1),
    "in_chans": whole(1),
    "img_size": optional(whole(1, MOST_PIXELS)),
    "model_args": optional(MAPPING),
    "pretrained": FLAG,
    "fixed_pos_embed": one_of(None, "sincos2d"),
    "lr": number(above=0),
    "weight_decay": number(0),
    "betas": list_of(number(0, 1), 2),
    "eps": number(above=0),
    "optimizer": TEXT,
    "connection_lr_scale": either(number(above=0), one_of("auto")),
    "layer_decay": number(0, 1),
    "warmup_steps": optional(whole(0)),
    "warmup_epochs": optional(number(0)),
    "min_lr": number(0),
    "loss": one_of(*LOSSES),
    "label_smoothing": number(0, 1),
    "compile": FLAG,
    "metric": one_of(*get_args(Metric), "mean_iou"),
    "decoder": one_of(*DECODERS),
    "decoder_channels": whole(1),
    "window_stride": optional(whole(1)),
    "method": TEXT,
    "source": TEXT,
    "new_head": FLAG,
    **_LORA,
}
_CONTENT: dict[str, Kind] = {"global_step": whole(0), "epoch": whole(0), "hyper_parameters": MAPPING}
_LOOPS = ("fit_loop", "validate_loop", "test_loop")
_STATES = Kind(
    "a mapping of names to mappings",
    lambda value: MAPPING.fits(value) and all(isinstance(state, dict) for state in value.values()),
)
_COUNT = whole(0)
_PROGRESS = Kind(
    "a mapping of total and current to mappings of counts",
    lambda value: (
        _STATES.fits(value)
        and value.keys() >= {"total", "current"}
        and all(_COUNT.fits(count) for counts in value.values() for count in counts.values())
    ),
)
_LIST = Kind(
    "a list of mappings", lambda value: isinstance(value, list) and all(isinstance(state, dict) for state in value)
)


def check_checkpoint(path: Path, content: Any) -> dict[str, Any]:
    """Look through what a checkpoint says of its model and its data.

    Args:
        path: What an error names.
        content: As `torch.load` gives it with `weights_only=True`.

    Returns:
        The content; the arguments of the model without what said where weights were read once.

    Raises:
        ValueError: It was made by something else, or an entry is missing or is of the wrong kind.
    """
    where = f"checkpoint: {path}"
    if not isinstance(content, dict) or any(not isinstance(key, str) for key in content):
        raise ValueError(f"{where}: got {shown(content)}, expected a mapping with texts as keys")
    settings = content.get("hyper_parameters", {})
    missing = [name for name in MODEL_SETTINGS if name not in settings] if isinstance(settings, dict) else []
    if missing:
        raise ValueError(
            f"{where} was not made by mhc-vision train: it has no model settings: hyper_parameters lacks "
            f"{', '.join(missing)}"
        )
    for key, kind in _CONTENT.items():
        if key in content or key == "global_step":
            kind.check(f"{where}: {key}", content.get(key))
    settings = dict(settings)
    check_fields(f"{where}: hyper_parameters", settings, _SETTINGS)
    if settings["model_args"] is not None:
        settings["model_args"] = check_model_args_of_file(
            f"{where}: hyper_parameters.model_args", settings["model_args"], of_run=True
        )
    needed = [
        *(_LORA if settings.get("method") == "lora" else ()),
        *(DECODER_SETTINGS if "decoder" in settings else ()),
    ]
    for key in needed:
        if key not in settings:
            raise ValueError(f"{where}: hyper_parameters.{key}: missing, expected {_SETTINGS[key].expected}")
    for key in ("state_dict", "current_model_state"):
        if key in content or key == "state_dict":
            check_state(f"{where}: {key}", content.get(key))
    for name, record in content.items():
        if name in data_modules.__all__ or (isinstance(record, dict) and "class_names" in record):
            _check_data(f"{where}: {name}", record, settings)
    return {**content, "hyper_parameters": settings}


def _check_data(where: str, record: Any, settings: Mapping[str, Any]) -> None:
    """The record of a data module of ours, or of one like them."""
    MAPPING.check(where, record)
    in_chans, num_classes = settings["in_chans"], settings["num_classes"]
    fields: dict[str, Kind] = {
        "class_names": list_of(TEXT, num_classes, "class names"),
        "mean": list_of(number(), in_chans, "numbers"),
        "std": list_of(number(above=0), in_chans, "numbers"),
        "crop_pct": number(above=0),
        "interpolation": TEXT,
        "exif_orientation": FLAG,
        "num_train": whole(0),
        "batch_size": whole(1),
        "num_processes": whole(1),
        "accumulate_grad_batches": whole(1),
        "seed": whole(-(2**63)),
        "options": MAPPING,
    }
    if "class_names" not in record:
        raise ValueError(f"{where}.class_names: missing, expected {fields['class_names'].expected}")
    # a data module of somebody's own may record more
    check_fields(where, {key: value for key, value in record.items() if key in fields}, fields)
    check_fields(f"{where}.options", record.get("options", {}), {})


def check_restorable(path: Path, content: Mapping[str, Any], *, goes_on: bool) -> None:
    """Look through what Lightning restores beside model and data.

    Args:
        path: What an error names.
        content: Of the checkpoint.
        goes_on: Whether a training goes on from it, which needs more of it than an evaluation.

    Raises:
        ValueError: An entry is missing or is of the wrong kind.
    """
    where = f"ckpt_path: {path}"
    version = content.get("pytorch-lightning_version")
    try:
        Version(version)  # type: ignore[arg-type]
    except (InvalidVersion, TypeError) as error:
        raise ValueError(f"{where}: pytorch-lightning_version: got {shown(version)}, expected a version") from error
    for key, kind in (
        ("callbacks", _STATES),
        ("loops", _STATES),
        ("optimizer_states", _LIST),
        ("lr_schedulers", _LIST),
    ):
        if goes_on or key in content:
            kind.check(f"{where}: {key}", content.get(key))
    for name in _LOOPS:
        if "loops" in content and name not in content["loops"]:
            raise ValueError(f"{where}: loops.{name}: missing, expected the position of the run")
    if goes_on:
        # `ResumePosition` corrects it
        _PROGRESS.check(f"{where}: loops.fit_loop.epoch_progress", content["loops"]["fit_loop"].get("epoch_progress"))
