"""The model of a training checkpoint, with what its run recorded of model and data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mhc_vision.checks import check_choice
from mhc_vision.models.create import rebuild_classifier
from mhc_vision.models.lora import LoraOptions, add_adapters, merge_adapters
from mhc_vision.models.segmenter import DECODER_SETTINGS, Segmenter
from mhc_vision.stored.checkpoint_files import damage, read_checkpoint
from mhc_vision.stored.checkpoint_schema import MODEL_SETTINGS
from mhc_vision.stored.sharded_checkpoints import REST
from mhc_vision.stored.weights import check_fits, check_repeats, short_reason


@dataclass(frozen=True)
class CheckpointModel:
    """What `load_checkpoint_model` gives.

    Attributes:
        model: With its weights.
        settings: Hyper-parameters of the run.
        data: What its data module recorded (`class_names`, `mean`, `std`, `crop_pct`, ...); empty where the run had a
            data module that is not one of ours.
        data_name: Class of that data module; `None` where there is no record.
        step: Optimiser steps that made the weights.
        has_average: Whether the checkpoint has the average of the weights (`EMA`) beside the weights.
    """

    model: nn.Module
    settings: dict[str, Any]
    data: dict[str, Any]
    data_name: str | None
    step: int
    has_average: bool


def load_checkpoint_model(
    checkpoint: Path,
    weights: Literal["default", "raw"] = "default",
    model_args: Mapping[str, Any] | None = None,
    segmentation: bool = False,
) -> CheckpointModel:
    """Builds the model that a checkpoint was made with and loads its weights; adapters of LoRA are merged into them.

    Args:
        checkpoint: Of a run of `mhc-vision train` or `mhc-vision finetune`.
        weights: `"default"`: those that were validated, the average where the run had `EMA`; `"raw"`: in that case,
            the weights themselves.
        model_args: Arguments of `timm.create_model` in place of those of the run.
        segmentation: Take a model that gives classes to pixels, too.

    Raises:
        ImportError: If the checkpoint has adapters and peft is missing, or a decoder and its library.
        ValueError: If the checkpoint is damaged, not one of ours or not whole, its weights or `model_args` do not fit
            its settings, or a run without `EMA` is asked for raw weights.
    """
    check_choice("weights", weights, ("default", "raw"))
    if (checkpoint / REST).is_file():
        raise ValueError(
            f"checkpoint: got {checkpoint}, a directory of shards, expected one file; make it with "
            f"`python -m mhc_vision.training.consolidate {checkpoint} FILE`"
        )
    if reason := damage(checkpoint):
        raise ValueError(f"checkpoint: got {checkpoint}, expected a checkpoint: {reason}")
    content = read_checkpoint(checkpoint)
    settings = content["hyper_parameters"]
    if "decoder" in settings and not segmentation:
        raise ValueError(
            f"checkpoint: got {checkpoint}, which gives classes to pixels, expected a classifier of images; "
            "predict and the ONNX export take it"
        )
    if weights == "raw" and "current_model_state" not in content:
        raise ValueError(f"weights: got 'raw', but {checkpoint} has no average beside them; expected 'default'")
    key = "current_model_state" if weights == "raw" else "state_dict"
    prefix = "model."
    state = {name.removeprefix(prefix): value for name, value in content[key].items() if name.startswith(prefix)}
    arguments = {name: settings[name] for name in MODEL_SETTINGS}
    arguments["model_args"] = {**(arguments["model_args"] or {}), **(model_args or {})}
    where = f"checkpoint: {checkpoint}: {key}"
    if model_args:
        where = f"model_args: got {model_args}, which {checkpoint} was not made with: {key}"
    check_repeats(f"checkpoint: {checkpoint}: hyper_parameters.model_args", arguments["model_args"], state)
    # sizes come from the file: nothing is allocated before the weights have shown that they are of these sizes
    # the numbers are as in `layers.factory.check_connection`
    with torch.device("meta"), torch.random.fork_rng(devices=()):
        check_fits(where, state, _build(checkpoint, arguments, settings))
    model = _build(checkpoint, arguments, settings)
    model.load_state_dict(state)
    if settings.get("method") == "lora":
        merge_adapters(model.encoder.vit if isinstance(model, Segmenter) else model)
        # adapters had frozen all else
        model.requires_grad_(True)
    # Lightning files the state of a data module under the name of its class
    recorded = ((name, value) for name, value in content.items() if isinstance(value, dict) and "class_names" in value)
    data_name, data = next(recorded, (None, {}))
    return CheckpointModel(model, settings, data, data_name, content["global_step"], "current_model_state" in content)


def _build(checkpoint: Path, arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
    """The model of a run, with adapters and a decoder where it had some."""
    try:
        model = rebuild_classifier(**arguments)
        if settings.get("method") == "lora":
            add_adapters(model, LoraOptions.from_settings(settings))
        if "decoder" in settings:
            model = Segmenter(model, settings["num_classes"], **{key: settings[key] for key in DECODER_SETTINGS})
    except ImportError:
        raise
    # of values that are each of the right kind and together make no sense, timm's classes say so in many ways
    except Exception as error:
        raise ValueError(
            f"checkpoint: {checkpoint}: no model can be built of hyper_parameters: {short_reason(error)}"
        ) from error
    return model
