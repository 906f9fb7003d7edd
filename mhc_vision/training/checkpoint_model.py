"""The model of a training checkpoint, with what its run recorded of model and data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from mhc_vision.training.classifier import create_classifier
from mhc_vision.training.resume import MODEL_SETTINGS, damage, load


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


def load_checkpoint_model(checkpoint: Path, weights: Literal["default", "raw"] = "default") -> CheckpointModel:
    """Builds the model that a checkpoint was made with and loads its weights.

    Args:
        checkpoint: Of a run of `mhc-vision train`.
        weights: `"default"`: those that were validated, the average where the run had `EMA`; `"raw"`: in that case,
            the weights themselves.

    Raises:
        ValueError: If the checkpoint is damaged or not one of ours, or a run without `EMA` is asked for raw weights.
    """
    if weights not in ("default", "raw"):
        raise ValueError(f"weights: got {weights!r}, expected 'default' or 'raw'")
    if reason := damage(checkpoint):
        raise ValueError(f"checkpoint: got {checkpoint}, expected a checkpoint: {reason}")
    content = load(checkpoint)
    settings = content.get("hyper_parameters", {})
    if not set(MODEL_SETTINGS) <= set(settings):
        raise ValueError(f"checkpoint: {checkpoint} was not made by mhc-vision train: it has no model settings")
    if weights == "raw" and "current_model_state" not in content:
        raise ValueError(f"weights: got 'raw', but {checkpoint} has no average beside them; expected 'default'")
    model = create_classifier(**{name: settings[name] for name in MODEL_SETTINGS})
    state = content["current_model_state" if weights == "raw" else "state_dict"]
    prefix = "model."
    model.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    # Lightning files the state of a data module under the name of its class
    recorded = ((name, value) for name, value in content.items() if isinstance(value, dict) and "class_names" in value)
    data_name, data = next(recorded, (None, {}))
    return CheckpointModel(model, settings, data, data_name, content["global_step"], "current_model_state" in content)
