"""Measures a model, wherever it lies, on images, wherever they lie."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from mhc_vision.analysis.measure_model import as_hyper_connected, measure_model
from mhc_vision.analysis.options import RANDOM, AnalysisOptions
from mhc_vision.checks import check_whole_number
from mhc_vision.inference.load_model import LoadedModel, load_model
from mhc_vision.inference.model_identity import model_identity
from mhc_vision.inference.options import InferenceOptions
from mhc_vision.inference.run_data import load_run_data, run_config
from mhc_vision.inference.sample_images import SampleImages, images_of_data, images_of_folder, random_images
from mhc_vision.models.names import split_name
from mhc_vision.progress import ShortBar, note
from mhc_vision.version import versions


def analyze_model(name: str, data: str | None, options: AnalysisOptions) -> dict[str, Any]:
    """Measures a model on images.

    Args:
        name: Of the model, as in `load_model`.
        data: A folder of images, `"random"` for noise, or `None` for the evaluation images of the checkpoint's run.
        options: How.

    Returns:
        The record that `write_analysis` writes, but for the command.

    Raises:
        ValueError: If an option is out of range, there is no such model, it has no residual additions that connections
            can replace, or there are no images.
    """
    device = InferenceOptions(batch_size=options.batch_size, device=options.device).torch_device()
    check_whole_number("num_images", options.num_images, at_least=1)
    _check_kind(name)
    loaded = load_model(name, connection=options.connection, weights=options.weights, needs_rgb_classes=False)
    images = _images(name, data, loaded, options)
    note(f"measuring up to {options.num_images} images: {images.source}")
    identity = model_identity(loaded)
    loss = _loss(loaded) if _has_its_classes(images, loaded) else None
    record = measure_model(loaded.model.to(device), _on_device(images, device), images.class_names, loss)
    # measured figures follow, of which two have the same names
    record["model"] = {**identity, **record["model"]}
    return {"source": loaded.source, "data": images.source, **record, "versions": versions()}


def _check_kind(name: str) -> None:
    """Refuse a timm name without residual additions that connections can replace, before its weights are loaded."""
    registered = split_name(name).registered
    if timm.is_model(registered) and not Path(name).exists():
        with torch.device("meta"):
            as_hyper_connected(timm.create_model(registered))


def _images(name: str, data: str | None, loaded: LoadedModel, options: AnalysisOptions) -> SampleImages:
    sizes = options.num_images, options.batch_size
    if data == RANDOM:
        return random_images(loaded, *sizes)
    if data is not None:
        return images_of_folder(Path(data), loaded, *sizes)
    checkpoint = Path(name)
    config = run_config(checkpoint) if checkpoint.is_file() else None
    if config is None:
        raise ValueError(
            f"data: got none, expected images: {name} has no run directory with a config.yaml; give --data"
        )
    return images_of_data(load_run_data(config), *sizes)


def _has_its_classes(images: SampleImages, loaded: LoadedModel) -> bool:
    """Whether the labels of the images are the model's classes, by their names."""
    names = {name: index for index, name in enumerate(images.class_names)}
    return bool(names) and loaded.class_index == names


def _loss(loaded: LoadedModel) -> str:
    return "bce" if loaded.probabilities == "sigmoid" else "ce"


def _on_device(images: SampleImages, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    with ShortBar(desc="measuring", unit="images") as bar:
        for batch, labels in images.batches:
            yield batch.to(device), labels
            bar.update(len(batch))
