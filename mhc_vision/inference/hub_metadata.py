"""The head of a model card: what the Hugging Face Hub lists, finds and shows of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import yaml

from mhc_vision.inference.checkpoint_model import CheckpointModel
from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.names import split_name

OF_WEIGHTS = ("base_model", "model-index", "widget")
"""Fields that are about certain weights: those of a card do not hold for the next ones."""
EXAMPLES = "examples"
"""Folder of the example images, beside the card."""

_SPLITS = (("test/top1", "test"), ("val/top1", "validation"))


def hub_metadata(
    name: str,
    loaded: CheckpointModel,
    config: Mapping[str, Any],
    figures: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
) -> str:
    """YAML between two rules. It has no licence: that is for the owner to say.

    Args:
        name: Of the model.
        loaded: What is exported.
        config: Of its run; empty where there is none.
        figures: Of these weights, by the names of the log; the Hub shows `test/top1` or else `val/top1`.
        examples: `image` (a file name in `EXAMPLES`) and `predictions` (as in `predict_files`) of each image that the
            Hub's widget shows with the model's answer. Without any, the Hub shows images of its own.
    """
    connected = loaded.settings["connection"] in CONNECTIONS
    fields: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", *(["hyper-connections"] if connected else [])],
    }
    if base := _base_model(loaded.settings, config):
        fields["base_model"] = base
    if results := _results(loaded, figures):
        fields["model-index"] = [{"name": name, "results": results}]
    if examples:
        fields["widget"] = [_example(example) for example in examples]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _base_model(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The repository of the weights that training started from, where the records of the run say so."""
    section = config.get("model")
    arguments = section.get("init_args", section) if isinstance(section, Mapping) else None
    # of a file in place of the published weights nobody knows where it is from
    if not isinstance(arguments, Mapping) or arguments.get("weights_file") is not None:
        return None
    source = settings.get("source") or (settings["name"] if settings.get("pretrained") else None)
    if source is None:
        return None
    kind, _, repository = source.partition(":")
    if repository:
        return repository.partition("@")[0] if kind in ("hf-hub", "hf_hub") else None
    plain = split_name(source).plain
    published = timm.get_pretrained_cfg(plain) if timm.models.is_model_pretrained(plain) else None
    return None if published is None else published.hf_hub_id


def _results(loaded: CheckpointModel, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracy in the form of the Hub's evaluation results."""
    data = str((loaded.data.get("options") or {}).get("dataset") or loaded.data_name)
    for key, split in _SPLITS:
        # a run that diverged logs no number
        if isinstance(figures.get(key), int | float):
            return [
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"type": data, "name": data, "split": split},
                    "metrics": [{"type": "accuracy", "name": "Top-1 accuracy", "value": figures[key]}],
                }
            ]
    return []


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "src": f"{EXAMPLES}/{example['image']}",
        "example_title": example["image"].rpartition(".")[0] or example["image"],
        "output": [{"label": entry["class"], "score": entry["probability"]} for entry in example["predictions"]],
    }
