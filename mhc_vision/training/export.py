"""From a training checkpoint to a directory that `timm.create_model('local-dir:...')` loads."""

import json
from pathlib import Path
from typing import Any, Literal

from timm.models import save_for_hf
from torch import nn

from mhc_vision.atomic_files import new_directory
from mhc_vision.training.checkpoint_model import CheckpointModel, load_checkpoint_model


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
        ValueError: If the checkpoint is damaged or not one of ours, the directory is there, or a run without `EMA` is
            asked for raw weights.
    """
    if directory.exists():
        raise ValueError(f"directory: {directory} is there already, expected a new one")
    loaded = load_checkpoint_model(checkpoint, weights)
    card = _model_card(directory.name, loaded.settings, _records(checkpoint), weights)
    with new_directory(directory) as temporary:
        save_for_hf(loaded.model, str(temporary), model_config=_timm_config(loaded), safe_serialization=True)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return loaded.model


def _timm_config(loaded: CheckpointModel) -> dict[str, Any]:
    """What timm's config.json says of the data: size, normalisation, resizing and class names.

    What it would say otherwise belongs to timm's weights of the same architecture.
    """
    data, settings = loaded.data, loaded.settings
    of_data: dict[str, Any] = {
        name: data[name] for name in ("mean", "std", "crop_pct", "interpolation") if name in data
    }
    if settings["img_size"] is not None:
        of_data["input_size"] = [settings["in_chans"], settings["img_size"], settings["img_size"]]
        of_data |= {"test_input_size": None, "test_crop_pct": None}
    config: dict[str, Any] = {"pretrained_cfg": of_data}
    if "class_names" in data:
        # that of our data modules
        of_data["crop_mode"] = "center"
        config["label_names"] = list(data["class_names"])
    return config


def _records(checkpoint: Path) -> dict[str, Any]:
    """`summary.json` of the run that the checkpoint lies in; empty where the run has not ended."""
    path = checkpoint.parent.parent / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _model_card(name: str, settings: dict[str, Any], records: dict[str, Any], weights: str) -> str:
    """Markdown: what the model is, how to load it, and what its run recorded."""
    connection = settings["connection"]
    streams = f"{connection} hyper-connections, {settings['num_streams']} streams" if connection else "plain residuals"
    needed = "import mhc_vision  # registers the architecture with timm\n" if connection else ""
    lines = [
        f"# {name}",
        "",
        f"`{settings['name']}` with {streams}, trained by mhc_vision; {weights} weights of the checkpoint.",
        "",
        "```python",
        f"import timm\n{needed}\nmodel = timm.create_model('local-dir:{name}', pretrained=True)",
        "```",
        "",
    ]
    if not records:
        return "\n".join([*lines, "The run has left no summary: it had not ended.", ""])
    figures = {
        **{key: value for key, value in records["metrics"].items() if key.startswith(("val/", "test/"))},
        "parameters": records["params"]["total"],
        "optimiser steps": records["steps"],
        "wall time (s)": records["wall_time_s"],
    }
    versions = ", ".join(f"{package} {version}" for package, version in records["versions"].items())
    return "\n".join(
        [
            *lines,
            "At the end of the run, as it recorded:",
            "",
            "| | |",
            "| --- | ---: |",
            *(f"| {key} | {value} |" for key, value in figures.items()),
            "",
            f"Command: `{' '.join(records['command'])}`",
            "",
            f"Versions: {versions}",
            "",
        ]
    )
