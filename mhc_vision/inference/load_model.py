"""A trained classifier from wherever it lies, with the data settings that belong to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
from timm.data import resolve_model_data_config
from torch import nn

from mhc_vision.checks import check_number, check_whole_number, first_few, nearest
from mhc_vision.data.class_names import check_class_names, check_distinct, distinct_names
from mhc_vision.finite import check_finite_weights
from mhc_vision.inference.checkpoint_model import load_checkpoint_model
from mhc_vision.inference.weights_file import create_from_file
from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.create import OWN_ARGUMENTS, registered_name
from mhc_vision.models.designs import DESIGNS
from mhc_vision.models.image_size import check_image_size
from mhc_vision.models.names import split_name
from mhc_vision.models.segmenter import Segmenter
from mhc_vision.progress import note
from mhc_vision.stored.checkpoint_schema import MODEL_SETTINGS
from mhc_vision.stored.directory_config import check_model_source
from mhc_vision.stored.model_args import without_weight_sources
from mhc_vision.stored.model_notes import noted_exif, noted_loss
from mhc_vision.stored.weights import short_reason


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, and how its images are made.

    Attributes:
        model: Gives logits (B, num_classes), or of segmentation (B, num_classes, H, W).
        source: What was loaded: `checkpoint PATH`, or a name that timm knows.
        num_classes: Outputs of the head or decoder, 0 without one.
        in_chans: Channels of an image.
        class_index: Index of each class by name; empty where the model does not say.
        img_size: Height and width of an image, in pixels.
        crop_pct: Part of the resized image's shorter side that the crop covers.
        crop_mode: `"center"` or `"squash"`, as in `eval_transform`.
        interpolation: Of resizing.
        mean: Of each channel, for pixels in 0..1.
        std: Their standard deviation.
        probabilities: What makes probabilities of the logits: `"sigmoid"`, for each class on its own, of a model that
            was trained so (loss `bce`), else `"softmax"`.
        settings: The arguments of `rebuild_classifier` that give a model of this architecture.
        exif_orientation: Whether photos were turned upright in training; `None` where the model does not say.
    """

    model: nn.Module
    source: str
    num_classes: int
    in_chans: int
    class_index: dict[str, int]
    img_size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    probabilities: Literal["softmax", "sigmoid"] = "softmax"
    settings: dict[str, Any] = field(default_factory=dict)
    exif_orientation: bool | None = None

    @property
    def is_segmenter(self) -> bool:
        """Whether it gives classes to pixels."""
        return isinstance(self.model, Segmenter)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Of an image's logits."""
        return (self.num_classes, self.img_size, self.img_size) if self.is_segmenter else (self.num_classes,)

    def data_settings(self) -> dict[str, Any]:
        """How an image becomes the model's input, by timm's names."""
        names = ("img_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "exif_orientation")
        return {name: getattr(self, name) for name in names}


def load_model(
    name: str,
    *,
    connection: str | None = None,
    weights: Literal["default", "raw", "initial"] = "default",
    img_size: int | None = None,
    crop_pct: float | None = None,
    needs_rgb_classes: bool = True,
    model_args: Mapping[str, Any] | None = None,
    weights_file: Path | None = None,
    segmentation: bool = False,
) -> LoadedModel:
    """Loads a checkpoint of `mhc-vision train`, a directory that `mhc-vision export` or timm wrote, or a timm model.

    Args:
        name: Of a file or a directory, or what `timm.create_model` takes: a registered name with or without a tag,
            `hf-hub:...` or `local-dir:...`. Names are loaded with their published weights.
        connection: For a plain timm name: the variant with this connection.
        weights: Of a checkpoint, as in `load_checkpoint_model`; `"initial"` for a timm name: those before any training.
        img_size: Height and width in pixels in place of the model's own; position embeddings are resampled.
        crop_pct: In place of the model's own.
        needs_rgb_classes: Refuse what is no classifier of RGB images.
        model_args: Further arguments of `timm.create_model`, in place of those the model was made with; with
            `in_chans`, timm adapts the weights of the first layer to other images.
        weights_file: For a timm name: a file in place of the published weights (see `create_from_file`).
        segmentation: Take a model that gives classes to pixels, too.

    Raises:
        ValueError: If there is no such model, it cannot be read or downloaded, it is none of those asked for, an option
            does not belong to its kind, it has no images of this size, or its weights are not finite.
    """
    if img_size is not None:
        check_whole_number("img_size", img_size, at_least=1)
    if crop_pct is not None:
        check_number("crop_pct", crop_pct, above=0, at_most=1)
    path = Path(name)
    is_checkpoint = path.suffix == ".ckpt" or path.is_file()
    if weights == "raw" and not is_checkpoint:
        raise ValueError(f"weights: got 'raw' for {name}, expected 'default' for all but training checkpoints")
    is_name = not (is_checkpoint or path.is_dir() or ":" in name)
    if weights == "initial" and not is_name:
        raise ValueError(f"weights: got 'initial' for {name}, expected it with a timm name only")
    if connection is not None and not is_name:
        raise ValueError(f"connection: got {connection!r} for {name}, expected it with a plain timm name only")
    if weights_file is not None and (not is_name or weights == "initial"):
        raise ValueError(f"weights_file: got {weights_file} for {name} with its own weights, expected a timm name")
    arguments = dict(model_args or {})
    if is_checkpoint:
        loaded = load_checkpoint_model(path, "raw" if weights == "raw" else "default", arguments, segmentation)
        model, source = loaded.model, f"checkpoint {path}"
        of_timm = model.encoder.vit if isinstance(model, Segmenter) else model
        config = {**resolve_model_data_config(of_timm), **_recorded(loaded.data)}
        size = loaded.settings["img_size"]
        height_width = config["input_size"][1:] if size is None else (size, size)
        config["input_size"] = (loaded.settings["in_chans"], *height_width)
        class_names = loaded.data.get("class_names")
        # before they were, ImageNet had two classes of one name
        class_names = None if class_names is None else distinct_names(class_names)
        settings = {key: loaded.settings[key] for key in MODEL_SETTINGS}
        settings["model_args"] = without_weight_sources({**(settings["model_args"] or {}), **arguments})
        loss = loaded.settings.get("loss")
        exif_orientation = loaded.data.get("exif_orientation")
    else:
        source = _timm_source(name, connection)
        if (is_name and weights != "initial" and weights_file is None) or name.startswith("hf-hub:"):
            note(f"loading the published weights of {name}, fetched if they are not here")
        if weights_file is not None:
            size = {} if img_size is None else {"img_size": img_size}
            model = create_from_file(source, weights_file, **size, **arguments)
        else:
            model = _create(source, pretrained=weights != "initial", **arguments)
        settings = _settings(source if is_name else None, model, arguments)
        config = resolve_model_data_config(model)
        pretrained_cfg = getattr(model, "pretrained_cfg", {})
        class_names = pretrained_cfg.get("label_names")
        loss = noted_loss(pretrained_cfg.get("notes"))
        exif_orientation = noted_exif(pretrained_cfg.get("notes"))
    check_finite_weights("model", source, model)
    in_chans, height, width = config["input_size"]
    num_classes = getattr(model, "num_classes", 0)
    if needs_rgb_classes and not num_classes:
        raise ValueError(f"model: got {name}, the weights of a backbone, expected a model with classes")
    if needs_rgb_classes and in_chans != 3:
        raise ValueError(f"model: got {name} for images of {in_chans} channel(s), expected 3: files are read as RGB")
    if height != width:
        raise ValueError(f"model: got {name} for images of {height} x {width}, expected square ones")
    if img_size is not None and img_size != height and isinstance(model, Segmenter):
        raise ValueError(f"img_size: got {img_size} for {name}, expected {height}, the windows that it was trained for")
    if img_size is not None and img_size != height:
        _resize(model, name, img_size)
    return LoadedModel(
        model=model.eval(),
        source=source,
        num_classes=num_classes,
        in_chans=in_chans,
        class_index=_class_index(class_names, num_classes, name),
        img_size=img_size or height,
        crop_pct=config["crop_pct"] if crop_pct is None else crop_pct,
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        settings={**settings, "num_classes": num_classes, "in_chans": in_chans, "img_size": img_size or height},
        probabilities="sigmoid" if loss == "bce" else "softmax",
        exif_orientation=exif_orientation,
    )


def _settings(name: str | None, model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `rebuild_classifier` for a model that timm has made, but for its sizes."""
    # timm's own record, with what config.json of a directory says
    made_with = {**arguments, **getattr(model, "_model_args", {})}
    return {
        "name": split_name(name or model.pretrained_cfg["architecture"]).plain,
        "connection": getattr(model, "connection", None),
        "num_streams": getattr(model, "num_streams", 1),
        "model_args": without_weight_sources(
            {key: value for key, value in made_with.items() if key not in OWN_ARGUMENTS}
        ),
    }


def _recorded(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data settings of a run by timm's names."""
    if not data:
        return {}
    names = ("mean", "std", "crop_pct", "interpolation")
    # our data modules crop the centre, whatever timm's weights of the same architecture want
    return {"crop_mode": "center", **{name: data[name] for name in names if name in data}}


def _timm_source(name: str, connection: str | None) -> str:
    """What `timm.create_model` takes for a directory or a name."""
    if ":" in name:
        return name
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f"model: got {name} without config.json, expected a directory that timm loads")
        return f"local-dir:{name}"
    if connection in DESIGNS:
        raise ValueError(
            f"connection: got {connection!r} for {name}, which timm has no name for; "
            f"expected one of {', '.join(CONNECTIONS)}, or a checkpoint"
        )
    if connection is not None:
        return registered_name(name, connection)
    registered = split_name(name).registered
    if not timm.is_model(registered):
        raise ValueError(
            f"model: got {name!r}, expected a checkpoint, a directory or a timm model"
            f"{nearest(registered, timm.list_models())}"
        )
    return name


def _create(source: str, **arguments: Any) -> nn.Module:
    check_model_source(source)
    try:
        return timm.create_model(source, **arguments)
    # timm, the Hub's client and the readers of weight files have no error in common
    except Exception as error:
        raise ValueError(f"model: {source} cannot be loaded: {short_reason(error)}") from error


def _resize(model: nn.Module, name: str, img_size: int) -> None:
    """Models without `set_input_size` either take any size or fail on their first image."""
    check_image_size(model, name, img_size)
    set_input_size = getattr(model, "set_input_size", None)
    if set_input_size is None:
        return
    try:
        set_input_size(img_size=(img_size, img_size))
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"img_size: got {img_size}, expected a size that {name} takes: {error}") from error


def _class_index(names: Sequence[str] | Mapping[str, str] | None, num_classes: int, source: str) -> dict[str, int]:
    """timm's label names are a list, or a dict from index to name where the indices have gaps."""
    if isinstance(names, Mapping):
        indices = {str(label): int(index) for index, label in names.items()}
        if outside := sorted(index for index in indices.values() if not 0 <= index < num_classes):
            raise ValueError(
                f"model: {source} names classes of the indices {first_few(outside)}, but has {num_classes} classes"
            )
        if len(indices) < len(names):
            check_distinct([str(label) for label in names.values()], f"model: {source}")
        return indices
    if names is None or not num_classes:
        return {}
    labels = [str(label) for label in names]
    check_class_names(labels, num_classes, f"model: {source}")
    return {label: index for index, label in enumerate(labels)}
