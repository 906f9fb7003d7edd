"""What a model says of image files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from mhc_vision.atomic_files import check_new_directory
from mhc_vision.checks import check_choice, check_whole_number
from mhc_vision.data.decode import decode_file
from mhc_vision.inference.input_files import check_some_readable, list_files
from mhc_vision.inference.load_model import LoadedModel, load_model
from mhc_vision.inference.logits import image_logits
from mhc_vision.inference.model_class_names import names_of_classes
from mhc_vision.inference.model_identity import model_identity
from mhc_vision.inference.options import InferenceOptions, ModelOptions
from mhc_vision.inference.predict_masks import predict_masks
from mhc_vision.version import versions

_SIGNIFICANT_DIGITS = 6


def predict_files(
    name: str,
    paths: Sequence[Path],
    model_options: ModelOptions | None = None,
    options: InferenceOptions | None = None,
    top_k: int = 5,
    exif_orientation: Literal["auto", "on", "off"] = "auto",
    masks: Path | None = None,
    overlays: bool = False,
) -> dict[str, Any]:
    """Gives the most probable classes of image files, of all formats that Pillow reads; of their pixels, writes them.

    Args:
        name: Of the model, as in `load_model`.
        paths: Files and folders, as in `list_files`.
        model_options: Of `load_model`.
        options: Of `image_logits`.
        top_k: Classes per image, at most all.
        exif_orientation: Whether photos are turned upright by their EXIF orientation; `"auto"` for what the model was
            trained with, and for `"on"` where it does not say.
        masks: Of a model of segmentation: the new directory that masks go to (see `predict_masks`).
        overlays: Put pictures of images under their masks there, too.

    Returns:
        `model`, `source`, what `model_identity` says, `weights`, `num_classes`, `probabilities` (`"softmax"`, or
        `"sigmoid"` for a model that was trained so, whose probabilities are those of each class on its own and
        need not sum to 1), `num_files`, `images` (for each file that could be read `image` and `predictions`:
        `class`, `index` and `probability`, the most probable first; `class` is the index as text where
        nothing names the classes; of segmentation `mask` and `classes`), `unreadable` (what is wrong with each other
        file, with its name), `settings` and `versions`.

    Raises:
        ValueError: If something is missing or wrong, before a file is read; or if none of the files can be read, or
            the model gives logits that are not finite.
    """
    model_options = model_options or ModelOptions()
    options = options or InferenceOptions()
    check_whole_number("top_k", top_k, at_least=1)
    check_choice("exif_orientation", exif_orientation, ("auto", "on", "off"))
    if masks is not None:
        check_new_directory(masks, "masks")
    files = list_files(paths)
    loaded = load_model(name, **vars(model_options), segmentation=True)
    if (masks is not None) != loaded.is_segmenter or (overlays and not loaded.is_segmenter):
        expected = "a directory for the masks" if loaded.is_segmenter else "none for a model that classifies images"
        raise ValueError(f"masks: got {masks} for {loaded.source}, expected {expected}")
    upright = loaded.exif_orientation is not False if exif_orientation == "auto" else exif_orientation == "on"
    if masks is not None:
        images, unreadable = predict_masks(loaded, files, masks, options, overlays, upright)
    else:
        images, unreadable = _predict(loaded, files, options, top_k, upright)
    check_some_readable(files, unreadable)
    return {
        "model": name,
        "source": loaded.source,
        **model_identity(loaded),
        "weights": model_options.weights,
        "num_classes": loaded.num_classes,
        "probabilities": loaded.probabilities,
        "num_files": len(files),
        "images": images,
        "unreadable": unreadable,
        "settings": {
            **loaded.data_settings(),
            "exif_orientation": upright,
            **vars(options),
            "device": str(options.torch_device()),
        },
        "versions": versions(),
    }


def _predict(
    loaded: LoadedModel, files: Sequence[str], options: InferenceOptions, top_k: int, upright: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """A record of each readable file, and what is wrong with the others."""
    labels = names_of_classes(loaded) or [str(index) for index in range(loaded.num_classes)]
    images: list[dict[str, Any]] = []
    unreadable: list[str] = []
    decode = partial(decode_file, exif_orientation=upright)
    for indices, logits, errors in image_logits(loaded, files, options, "predict", decode):
        unreadable.extend(errors)
        probabilities = logits.sigmoid() if loaded.probabilities == "sigmoid" else logits.softmax(1)
        # of the logits: in fp32, sigmoids of large ones are all 1
        order = torch.topk(logits, min(top_k, loaded.num_classes)).indices
        best = zip(order.tolist(), probabilities.gather(1, order).tolist(), strict=True)
        for index, (classes, values) in zip(indices.tolist(), best, strict=True):
            predictions = [
                {"class": labels[number], "index": number, "probability": _rounded(value)}
                for number, value in zip(classes, values, strict=True)
            ]
            images.append({"image": files[index], "predictions": predictions})
    return images, unreadable


def _rounded(probability: float) -> float:
    """Without the digits that fp32 does not have."""
    return float(f"{probability:.{_SIGNIFICANT_DIGITS}g}")
