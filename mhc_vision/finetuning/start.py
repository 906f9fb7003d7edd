"""Where fine-tuning starts: a pretrained model, made ready for other classes, another size and connections."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn

from mhc_vision.layers import CONNECTIONS
from mhc_vision.models import HyperConnected, hyperconnect
from mhc_vision.training.classifier import check_model_args, rebuild_classifier, split_options
from mhc_vision.training.load_model import load_model


@dataclass(frozen=True)
class Start:
    """What `start_from` gives.

    Attributes:
        model: Ready to be fine-tuned, in training mode.
        settings: The arguments of `rebuild_classifier` that give a model of this architecture.
        new_head: Whether the head is new, with weights of zero.
        source: What was loaded.
        mean: Of each channel of the images that the weights were made with.
        std: Their standard deviation.
    """

    model: nn.Module
    settings: dict[str, Any]
    new_head: bool
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def start_from(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    img_size: int | None = None,
    connection: str | None = None,
    num_streams: int = 4,
    model_args: Mapping[str, Any] | None = None,
    weights: Literal["default", "raw"] = "default",
    weights_file: Path | None = None,
    new_head: bool = False,
) -> Start:
    """Loads a model, resamples its position embeddings, connects a plain one, and gives it a head for other classes.

    Up to the head the result computes what the loaded model computes, whatever the connection; where the size is
    another, as far as resampled position embeddings do.

    Args:
        name: As in `load_model`: a timm name, a checkpoint, a directory or `hf-hub:...`.
        num_classes: Of the dataset.
        in_chans: Channels of its images; timm adapts the first layer of models that it loads.
        img_size: Height and width of its images, in pixels; `None` for the model's own.
        connection: `shc`, `dhc` or `mhc` for a plain model; `None` leaves a model as it is.
        num_streams: Of the connections, new ones or those that are there; only with `connection`.
        model_args: Options of new connections, and arguments of `timm.create_model` such as `drop_path_rate`.
        weights: Of a checkpoint, as in `load_model`.
        weights_file: For a timm name: a file in place of the published weights.
        new_head: Give a new head also where the loaded one has as many classes.

    Raises:
        ValueError: If the model cannot be loaded, has other connections or channels, or an option is out of range.
    """
    check_model_args(model_args or {})
    name, connection = _split_connection(name, connection)
    of_connection, of_timm = split_options(model_args or {})
    is_file = Path(name).is_file()
    if in_chans != 3 and not is_file:
        of_timm["in_chans"] = in_chans
    loaded = load_model(
        name,
        weights=weights,
        img_size=img_size,
        needs_rgb_classes=False,
        model_args=of_timm,
        weights_file=weights_file,
    )
    if is_file and loaded.in_chans != in_chans:
        raise ValueError(f"name: {name} takes images of {loaded.in_chans} channel(s), the data has {in_chans}")
    settings = {**loaded.settings, "num_classes": num_classes, "in_chans": in_chans}
    model = loaded.model
    if isinstance(model, HyperConnected):
        _check_connection(name, settings, connection, num_streams, of_connection)
    elif connection is not None:
        settings |= {"connection": connection, "num_streams": num_streams}
        settings["model_args"] = {**settings["model_args"], **of_connection}
        model = hyperconnect(model, connection, settings["num_streams"], inplace=True, **of_connection)
    elif of_connection:
        raise ValueError(f"model_args: got {', '.join(of_connection)} without a connection, expected one")
    new_head = new_head or loaded.num_classes != num_classes
    if new_head:
        _replace_head(model, num_classes)
    _check_settings(model, settings, name)
    return Start(model.train(), settings, new_head, loaded.source, loaded.mean, loaded.std)


def _split_connection(name: str, connection: str | None) -> tuple[str, str | None]:
    """The plain name and the connection of a registered `<architecture>_<connection>`, whose weights are plain ones."""
    architecture, dot, tag = name.partition(".")
    for suffix in CONNECTIONS:
        if architecture.endswith(f"_{suffix}") and timm.is_model(architecture) and not Path(name).exists():
            if connection not in (None, suffix):
                raise ValueError(f"connection: got {connection!r} for {name}, expected null or {suffix!r}")
            return architecture.removesuffix(f"_{suffix}") + dot + tag, suffix
    return name, connection


def _check_connection(
    name: str,
    settings: Mapping[str, Any],
    connection: str | None,
    num_streams: int,
    of_connection: Mapping[str, Any],
) -> None:
    """Raise ValueError unless the connections asked for are those that a model has."""
    asked = dict(of_connection)
    if connection is not None:
        asked |= {"connection": connection, "num_streams": num_streams}
    has = {**settings, **settings["model_args"]}
    for option, value in asked.items():
        if value != has.get(option):
            raise ValueError(f"{option}: got {value!r}, but {name} was trained with {has.get(option)!r}")


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """A head of zeros, as ViT's (arXiv 2010.11929, Sec. 4.1): all classes start alike, whatever the seed."""
    model.reset_classifier(num_classes)  # type: ignore[operator]
    heads = model.get_classifier()  # type: ignore[operator]
    for head in heads if isinstance(heads, tuple) else (heads,):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)


def _check_settings(model: nn.Module, settings: dict[str, Any], name: str) -> None:
    """Raise ValueError if a model could not be built again from its settings to load its fine-tuned weights."""
    with torch.device("meta"):
        rebuilt = rebuild_classifier(**settings)
    ours, theirs = ({key: value.shape for key, value in one.state_dict().items()} for one in (model, rebuilt))
    if ours != theirs:
        differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        raise ValueError(
            f"name: {name} cannot be built again from its own record {settings}: {', '.join(differing[:3])} differ"
        )
