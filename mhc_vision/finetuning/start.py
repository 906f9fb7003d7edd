"""Where fine-tuning starts: a pretrained model, made ready for other classes, another size and connections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import timm
import torch
from torch import nn

from mhc_vision.data.class_names import check_class_names
from mhc_vision.finetuning.head_classes import match_classes
from mhc_vision.inference.load_model import LoadedModel, load_model
from mhc_vision.layers import CONNECTIONS, default_options
from mhc_vision.models import hyperconnect
from mhc_vision.models.create import check_model_args, rebuild_classifier, split_options
from mhc_vision.models.names import split_name

AS_LOADED: Final = "as_loaded"
"""Of `connection`: what the start has, named or not."""


@dataclass(frozen=True)
class Start:
    """What `start_from` gives.

    Attributes:
        model: Ready to be fine-tuned, in training mode.
        settings: The arguments of `rebuild_classifier` that give a model of this architecture.
        new_head: Whether the head is new, with weights of zero.
        head: What became of the loaded head and why, in words.
        source: What was loaded.
        mean: Of each channel of the images that the weights were made with.
        std: Their standard deviation.
    """

    model: nn.Module
    settings: dict[str, Any]
    new_head: bool
    head: str
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def start_from(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    img_size: int | None = None,
    connection: str | None = AS_LOADED,
    num_streams: int | None = None,
    model_args: Mapping[str, Any] | None = None,
    weights: Literal["default", "raw"] = "default",
    weights_file: Path | None = None,
    new_head: bool = False,
    class_names: Sequence[str] | None = None,
) -> Start:
    """Loads a model, resamples its position embeddings, connects a plain one, and gives it a head for other classes.

    Up to the head the result computes what the loaded model computes, whatever the connection; where the size is
    another, as far as resampled position embeddings do.

    Args:
        name: As in `load_model`: a timm name, a checkpoint, a directory or `hf-hub:...`.
        num_classes: Of the dataset.
        in_chans: Channels of its images; timm adapts the first layer of models that it loads.
        img_size: Height and width of its images, in pixels; `None` for the model's own.
        connection: `shc`, `dhc` or `mhc` for a plain model, what a model has that is none, `None` for a plain one that
            stays so; `"as_loaded"` leaves every model as it is.
        num_streams: Of the connections, new ones or those that are there; `None` for 4, or for those that are there.
        model_args: Options of new connections, and arguments of `timm.create_model` such as `drop_path_rate`.
        weights: Of a checkpoint, as in `load_model`.
        weights_file: For a timm name: a file in place of the published weights.
        new_head: Give a new head also where the loaded one fits.
        class_names: Of the dataset, in the order of its labels. A head of as many other classes gives way to a new one,
            the outputs of one of the same classes are put in this order; where one side has no names, it is kept.

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
        raise ValueError(f"name: got {name} for {loaded.in_chans} channel(s), expected {in_chans}, as the data has")
    settings = {**loaded.settings, "num_classes": num_classes, "in_chans": in_chans}
    model = loaded.model
    if settings["connection"] is not None:
        if settings["connection"] in CONNECTIONS and "stream_dtype" in of_connection:
            # weights fit all of its values
            stream_dtype = of_connection.pop("stream_dtype")
            model.set_stream_dtype(stream_dtype)  # type: ignore[operator]
            settings["model_args"] = {**settings["model_args"], "stream_dtype": stream_dtype}
        _check_connection(name, settings, connection, num_streams, of_connection)
    elif connection not in (None, AS_LOADED):
        settings |= {"connection": connection, "num_streams": 4 if num_streams is None else num_streams}
        settings["model_args"] = {**settings["model_args"], **of_connection}
        model = hyperconnect(model, connection, settings["num_streams"], inplace=True, **of_connection)
    elif of_connection:
        raise ValueError(f"model_args: got {', '.join(of_connection)} without a connection, expected one")
    new_head, head = _fit_head(loaded, num_classes, class_names, new_head, published_weights=weights_file is None)
    _check_settings(model, settings, name)
    return Start(model.train(), settings, new_head, head, loaded.source, loaded.mean, loaded.std)


def _split_connection(name: str, connection: str | None) -> tuple[str, str | None]:
    """The plain name and the connection of a registered `<architecture>_<connection>`, whose weights are plain ones."""
    parts = split_name(name)
    if parts.connection is None or not timm.is_model(parts.registered) or Path(name).exists():
        return name, connection
    if connection not in (AS_LOADED, parts.connection):
        raise ValueError(
            f"connection: got {_shown(connection)} for {name}, expected {parts.connection!r} or the plain model's name"
        )
    return parts.plain, parts.connection


def _check_connection(
    name: str,
    settings: Mapping[str, Any],
    connection: str | None,
    num_streams: int | None,
    of_connection: Mapping[str, Any],
) -> None:
    """Raise ValueError unless the connections asked for are those that a model has."""
    has = {**settings, **settings["model_args"]}
    if has["connection"] in CONNECTIONS:
        has = {**default_options(has["connection"]), **has}
    if connection not in (AS_LOADED, has["connection"]):
        raise ValueError(
            f"connection: got {_shown(connection)}, expected {has['connection']!r}, as {name} was trained; name "
            "that, leave it out, or start from a model without"
        )
    asked = dict(of_connection)
    if num_streams is not None:
        asked["num_streams"] = num_streams
    for option, value in asked.items():
        if value != has.get(option):
            raise ValueError(f"{option}: got {value!r}, expected {has.get(option)!r}, with which {name} was trained")


def _shown(connection: str | None) -> str:
    """As configuration files have it."""
    return "null" if connection is None else repr(connection)


def _fit_head(
    loaded: LoadedModel, num_classes: int, class_names: Sequence[str] | None, new_head: bool, published_weights: bool
) -> tuple[bool, str]:
    """Makes the head of a loaded model that of a dataset, in place; says whether it is new, and what was done."""
    if class_names is not None:
        check_class_names(class_names, num_classes, "class_names")
    if loaded.num_classes != num_classes:
        _replace_head(loaded.model, num_classes)
        had = f"{loaded.num_classes} classes" if loaded.num_classes else "no head"
        return True, f"new (the start has {had}, the data {num_classes})"
    if new_head:
        _replace_head(loaded.model, num_classes)
        return True, "new (new_head)"
    match = match_classes(loaded, class_names, published_weights)
    if match.kind == "other":
        _replace_head(loaded.model, num_classes)
        return True, f"new ({match.said})"
    if match.kind == "order":
        _reorder_head(loaded.model, match.order)
        return False, f"kept ({match.said}, its outputs put in the data's order)"
    return False, f"kept ({match.said})"


def _heads(model: nn.Module) -> tuple[nn.Module, ...]:
    """Distilled models have two."""
    head = model.get_classifier()  # type: ignore[operator]
    return head if isinstance(head, tuple) else (head,)


def _reorder_head(model: nn.Module, order: Sequence[int]) -> None:
    """Puts the outputs of each head in an order: the k-th becomes what the order's k-th entry was."""
    with torch.no_grad():
        for head in _heads(model):
            for parameter in head.parameters():
                parameter.copy_(parameter[list(order)])


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """A head of zeros, as ViT's (arXiv 2010.11929, Sec. 4.1): all classes start alike, whatever the seed."""
    model.reset_classifier(num_classes)  # type: ignore[operator]
    for head in _heads(model):
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


def _check_settings(model: nn.Module, settings: dict[str, Any], name: str) -> None:
    """Raise ValueError if a model could not be built again from its settings to load its fine-tuned weights."""
    # as in `check_connection`
    with torch.device("meta"), torch.random.fork_rng(devices=()):
        rebuilt = rebuild_classifier(**settings)
    ours, theirs = ({key: value.shape for key, value in one.state_dict().items()} for one in (model, rebuilt))
    if ours != theirs:
        differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        raise ValueError(
            f"name: got {name}, expected a model that its own record {settings} builds again; "
            f"{', '.join(differing[:3])} differ"
        )
