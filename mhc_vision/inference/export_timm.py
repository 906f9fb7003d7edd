"""From a training checkpoint to a directory that `timm.create_model('local-dir:...')` loads."""

from pathlib import Path
from typing import Any, Literal

from timm.models import is_model, save_for_hf
from torch import nn

from mhc_vision.atomic_files import new_directory
from mhc_vision.data.class_names import check_class_names, distinct_names
from mhc_vision.finite import check_finite_weights
from mhc_vision.inference.checkpoint_model import CheckpointModel, load_checkpoint_model
from mhc_vision.inference.model_card import model_card
from mhc_vision.models.designs import DESIGNS
from mhc_vision.models.names import split_name
from mhc_vision.stored.loss_note import loss_note

# what timm knows of its own weights of an architecture; a licence is for the owner of the new ones to give
_OF_TIMM_WEIGHTS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids")


def export_checkpoint(checkpoint: Path, directory: Path, weights: Literal["default", "raw"] = "default") -> nn.Module:
    """Writes `config.json`, `model.safetensors` and `README.md`, a model card with what the run recorded.

    Args:
        checkpoint: Of a run of `mhc-vision train`.
        directory: Where to; it must not be there yet, and appears when it is complete.
        weights: `"default"`: those that were validated, the average where the run had `EMA`; `"raw"`: in that case,
            the weights themselves.

    Returns:
        The model.

    Raises:
        ValueError: If the checkpoint is damaged, not one of ours, of a model that timm has no name for or of weights
            that are not finite, the directory is there, or a run without `EMA` is asked for raw weights.
    """
    if directory.exists():
        raise ValueError(f"directory: {directory} is there already, expected a new one")
    loaded = load_checkpoint_model(checkpoint, weights)
    design = loaded.settings["connection"]
    if design in DESIGNS:
        raise ValueError(
            f"checkpoint: {checkpoint} holds a model of the design {design!r}, which timm has no name for; "
            "expected a plain or hyper-connected one"
        )
    architecture = split_name(loaded.settings["name"])._replace(connection=design).registered
    if design is not None and not is_model(architecture):
        raise ValueError(
            f"checkpoint: {checkpoint} holds {architecture}, which timm has no name for and could not load again; "
            "expected a model that is registered, or --format onnx"
        )
    check_finite_weights("checkpoint", str(checkpoint), loaded.model)
    config = _timm_config(loaded)
    card = model_card(directory.name, checkpoint, loaded, weights)
    with new_directory(directory) as temporary:
        save_for_hf(loaded.model, str(temporary), model_config=config, safe_serialization=True)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return loaded.model


def _timm_config(loaded: CheckpointModel) -> dict[str, Any]:
    """What timm's config.json says of the data (size, normalisation, resizing, class names) and of the loss.

    What it would say otherwise belongs to timm's weights of the same architecture.
    """
    data, settings = loaded.data, loaded.settings
    of_data: dict[str, Any] = dict.fromkeys(_OF_TIMM_WEIGHTS)
    of_data |= {name: data[name] for name in ("mean", "std", "crop_pct", "interpolation") if name in data}
    if settings.get("loss") is not None:
        of_data["notes"] = [loss_note(settings["loss"])]
    if settings["img_size"] is not None:
        of_data["input_size"] = [settings["in_chans"], settings["img_size"], settings["img_size"]]
        of_data |= {"test_input_size": None, "test_crop_pct": None}
    config: dict[str, Any] = {"pretrained_cfg": of_data}
    if "class_names" in data:
        # that of our data modules
        of_data["crop_mode"] = "center"
        config["label_names"] = distinct_names(data["class_names"])
        check_class_names(config["label_names"], settings["num_classes"], "checkpoint")
    return config
