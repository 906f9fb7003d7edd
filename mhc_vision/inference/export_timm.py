"""From a training checkpoint to a directory that `timm.create_model('local-dir:...')` loads."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from timm.models import is_model, save_for_hf
from torch import nn

from mhc_vision.atomic_files import new_directory
from mhc_vision.checks import first_few
from mhc_vision.data.class_names import check_class_names, distinct_names
from mhc_vision.finite import check_finite_weights
from mhc_vision.inference.checkpoint_model import CheckpointModel, load_checkpoint_model
from mhc_vision.inference.hub_metadata import EXAMPLES
from mhc_vision.inference.model_card import model_card
from mhc_vision.inference.options import InferenceOptions, ModelOptions
from mhc_vision.inference.predict import predict_files
from mhc_vision.models.designs import DESIGNS
from mhc_vision.models.names import split_name
from mhc_vision.stored.model_notes import exif_note, loss_note

# what timm knows of its own weights of an architecture; a licence is for the owner of the new ones to give
_OF_TIMM_WEIGHTS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids")


def export_checkpoint(
    checkpoint: Path,
    directory: Path,
    weights: Literal["default", "raw"] = "default",
    *,
    repository: str | None = None,
    examples: Sequence[Path] = (),
) -> nn.Module:
    """Writes `config.json`, `model.safetensors` and `README.md`, a model card with what the run recorded.

    Args:
        checkpoint: Of a run of `mhc-vision train`.
        directory: Where to; it must not be there yet, and appears when it is complete.
        weights: `"default"`: those that were validated, the average where the run had `EMA`; `"raw"`: in that case,
            the weights themselves.
        repository: `OWNER/NAME` on the Hugging Face Hub, if the directory will be pushed there: the card says so.
        examples: Image files that the card shows with the model's answers; they are copied as they are.

    Returns:
        The model.

    Raises:
        ValueError: If the checkpoint is damaged, not one of ours, of a model that timm has no name for or of weights
            that are not finite, the directory is there, a run without `EMA` is asked for raw weights, or an example
            cannot be read or is named like another.
    """
    if directory.exists():
        raise ValueError(f"directory: got {directory}, which is there already, expected a new one")
    loaded = load_checkpoint_model(checkpoint, weights)
    design = loaded.settings["connection"]
    if design in DESIGNS:
        raise ValueError(
            f"checkpoint: got {checkpoint} of the design {design!r}, which timm has no name for, expected a plain or "
            "hyper-connected model"
        )
    architecture = split_name(loaded.settings["name"])._replace(connection=design).registered
    if design is not None and not is_model(architecture):
        raise ValueError(
            f"checkpoint: got {checkpoint} of {architecture}, which timm has no name for, expected a registered model, "
            "which timm can load again; or take --format onnx"
        )
    check_finite_weights("checkpoint", str(checkpoint), loaded.model)
    config = _timm_config(loaded)
    answers = _answers(checkpoint, weights, examples) if examples else []
    source = f"local-dir:{directory.name}" if repository is None else f"hf-hub:{repository}"
    card = model_card(source, checkpoint, loaded, weights, answers)
    with new_directory(directory) as temporary:
        save_for_hf(loaded.model, str(temporary), model_config=config, safe_serialization=True)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        for example in examples:
            (temporary / EXAMPLES).mkdir(exist_ok=True)
            shutil.copyfile(example, temporary / EXAMPLES / example.name)
    return loaded.model


def _answers(checkpoint: Path, weights: Literal["default", "raw"], examples: Sequence[Path]) -> list[dict[str, Any]]:
    """The most probable classes of each example, by its file name."""
    if folders := [path for path in examples if path.is_dir()]:
        raise ValueError(f"examples: got {first_few(folders)}, expected image files")
    names = [path.name for path in examples]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"examples: got {first_few(twice)} more than once, expected files of different names")
    options = ModelOptions(weights=weights), InferenceOptions(num_workers=0)
    record = predict_files(str(checkpoint), examples, *options)
    if record["unreadable"]:
        raise ValueError("\n".join(["examples: some cannot be read:", *record["unreadable"]]))
    return [{**entry, "image": Path(entry["image"]).name} for entry in record["images"]]


def _timm_config(loaded: CheckpointModel) -> dict[str, Any]:
    """What timm's config.json says of loss and data: size, normalisation, resizing, orientation, class names.

    What it would say otherwise belongs to timm's weights of the same architecture.
    """
    data, settings = loaded.data, loaded.settings
    of_data: dict[str, Any] = dict.fromkeys(_OF_TIMM_WEIGHTS)
    of_data |= {name: data[name] for name in ("mean", "std", "crop_pct", "interpolation") if name in data}
    notes = [] if settings.get("loss") is None else [loss_note(settings["loss"])]
    if "exif_orientation" in data:
        notes.append(exif_note(data["exif_orientation"]))
    if notes:
        of_data["notes"] = notes
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
