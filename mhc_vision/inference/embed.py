"""What a model makes of image files: features to search, cluster and classify with, and what to look at beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mhc_vision.checks import check_choice, check_whole_number
from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.decode import decode_file
from mhc_vision.data.transforms import eval_transform
from mhc_vision.inference.features import check_tokens, feature_function, last_attention, last_attention_name
from mhc_vision.inference.image_outputs import image_outputs, output_of_blank
from mhc_vision.inference.input_files import check_some_readable, list_files
from mhc_vision.inference.knn import leave_one_out_accuracy
from mhc_vision.inference.load_model import LoadedModel, load_model
from mhc_vision.inference.model_identity import model_identity
from mhc_vision.inference.options import InferenceOptions, ModelOptions
from mhc_vision.version import versions

MAX_PICTURED = 8
_SPLITS = {"train", "val", "test"}


class Pictured(NamedTuple):
    """What `pca_picture` draws of the first images.

    Attributes:
        images: (N, H, W, 3), uint8, as the model saw them.
        patches: (N, gh, gw, C), patch features, fp32.
        attention: (N, gh, gw), as in `last_attention`; `None` unless asked for.
    """

    images: NDArray[np.uint8]
    patches: NDArray[np.float32]
    attention: NDArray[np.float32] | None


@dataclass(frozen=True)
class Embeddings:
    """What `embed_files` gives.

    Attributes:
        features: (N, C), or (N, gh, gw, C) for `patches`; fp32.
        images: Names of the N files that could be read, in their order.
        record: `model`, `source`, what `model_identity` says, `weights`, `features` (which), `shape` (of an image's),
            `num_files`, `unreadable` (what is wrong with each other file, with its name), `retrieval` (`None` unless
            asked for: `num_images`, `num_classes` and `top1`, accuracies in [0, 1] by the number of neighbours),
            `settings` and `versions`.
        pictured: Of the first images; `None` unless asked for.
    """

    features: NDArray[np.float32]
    images: list[str]
    record: dict[str, Any]
    pictured: Pictured | None = None


def embed_files(
    name: str,
    paths: Sequence[Path],
    model_options: ModelOptions | None = None,
    options: InferenceOptions | None = None,
    features: Literal["head", "cls", "mean", "patches"] = "head",
    exif_orientation: Literal["auto", "on", "off"] = "auto",
    retrieval: bool = False,
    num_pictured: int = 0,
    attention: bool = False,
) -> Embeddings:
    """Gives features of image files, of all formats that Pillow reads, by a model with classes or without.

    Args:
        name: Of the model, as in `load_model`.
        paths: Files and folders, as in `list_files`.
        model_options: Of `load_model`.
        options: Of `image_outputs`.
        features: Which, as in `feature_function`.
        exif_orientation: Whether photos are turned upright, as in `predict_files`.
        retrieval: Measure how often the nearest images are of the same class: `leave_one_out_accuracy`. `paths` is one
            folder of class folders; files directly in it do not count.
        num_pictured: For how many of the first images what a picture shows is wanted, at most `MAX_PICTURED`.
        attention: Of them, also the last block's attention.

    Raises:
        ValueError: If something is missing or wrong, before a file is read; or if none of the files can be read, or
            the model gives features that are not finite.
    """
    model_options = model_options or ModelOptions()
    options = options or InferenceOptions()
    check_choice("exif_orientation", exif_orientation, ("auto", "on", "off"))
    check_whole_number("num_pictured", num_pictured, at_least=0, at_most=MAX_PICTURED)
    if retrieval and features == "patches":
        raise ValueError("retrieval: got it with patches, expected features of one vector per image: head, cls or mean")
    files = list_files(paths)
    labels = _folder_labels(paths, files) if retrieval else {}
    loaded = load_model(name, **vars(model_options), needs_rgb_classes=False)
    if loaded.in_chans != 3:
        raise ValueError(
            f"model: got {name} for images of {loaded.in_chans} channel(s), expected 3: files are read as RGB"
        )
    if num_pictured:
        check_tokens(loaded, "picture: asked")
        if attention:
            last_attention_name(loaded)
    upright = loaded.exif_orientation is not False if exif_orientation == "auto" else exif_orientation == "on"
    decode = partial(decode_file, exif_orientation=upright)
    images, made, unreadable = _embed(loaded, files, options, features, decode)
    record = {
        "model": name,
        "source": loaded.source,
        **model_identity(loaded),
        "weights": model_options.weights,
        "features": features,
        "shape": list(made.shape[1:]),
        "num_files": len(files),
        "unreadable": unreadable,
        "retrieval": _retrieval(made, [labels.get(image) for image in images]) if retrieval else None,
        "settings": {
            **loaded.data_settings(),
            "exif_orientation": upright,
            **vars(options),
            "device": str(options.torch_device()),
        },
        "versions": versions(),
    }
    pixels = [decode(image) for image in images[:num_pictured]]
    pictured = _pictured(loaded, pixels, options.torch_device(), attention) if pixels else None
    return Embeddings(made.numpy(), images, record, pictured)


def _embed(
    loaded: LoadedModel, files: Sequence[str], options: InferenceOptions, features: str, decode: Callable[[str], Tensor]
) -> tuple[list[str], Tensor, list[str]]:
    """The readable files, features of these, and what is wrong with the others."""
    device = options.torch_device()
    loaded.model.to(device)
    forward = feature_function(loaded, features)
    shape = output_of_blank(forward, loaded, device).shape[1:]
    if features == "head" and len(shape) != 1:
        raise ValueError(
            f"features: got 'head' for {loaded.source}, which pools nothing, expected cls, mean or patches"
        )
    read: list[str] = []
    rows: list[Tensor] = []
    unreadable: list[str] = []
    for indices, outputs, errors in image_outputs(loaded, files, options, "embed", decode, forward, shape, "features"):
        read += [files[index] for index in indices.tolist()]
        rows.append(outputs.cpu())
        unreadable += errors
    check_some_readable(files, unreadable)
    return read, torch.cat(rows), unreadable


def _folder_labels(paths: Sequence[Path], files: Sequence[str]) -> dict[str, str]:
    """The class folder of each file that is in one."""
    if len(paths) != 1 or not paths[0].is_dir():
        raise ValueError(f"retrieval: got {' '.join(map(str, paths))}, expected one folder of class folders")
    parts = {file: Path(file).relative_to(paths[0]).parts for file in files}
    labels = {file: names[0] for file, names in parts.items() if len(names) > 1}
    classes = set(labels.values())
    if classes & _SPLITS:
        split = min(classes & _SPLITS)
        raise ValueError(f"retrieval: got {paths[0]} with {split}/, expected class folders; give {paths[0] / split}")
    if len(classes) < 2:
        raise ValueError(f"retrieval: got {len(classes)} class folders with files in {paths[0]}, expected two or more")
    return labels


def _retrieval(features: Tensor, names: Sequence[str | None]) -> dict[str, Any]:
    classes = sorted({name for name in names if name is not None})
    labels = torch.tensor([-1 if name is None else classes.index(name) for name in names])
    counts = labels >= 0
    top1 = leave_one_out_accuracy(features[counts], labels[counts]) if counts.any() else {}
    return {"num_images": int(counts.sum()), "num_classes": len(classes), "top1": {str(k): top1[k] for k in top1}}


@torch.inference_mode()
def _pictured(loaded: LoadedModel, pixels: Sequence[Tensor], device: torch.device, attention: bool) -> Pictured:
    transform = eval_transform(loaded.img_size, loaded.interpolation, loaded.crop_pct, loaded.crop_mode)
    crops = torch.stack([transform(image) for image in pixels])
    normalise = BatchAugment(loaded.mean, loaded.std, loaded.num_classes).eval().to(device)
    images, _ = normalise(crops.to(device), torch.zeros(len(crops)))
    patches = feature_function(loaded, "patches")(images).float().cpu().numpy()
    seen = last_attention(loaded, images).cpu().numpy() if attention else None
    return Pictured(crops.permute(0, 2, 3, 1).numpy(), patches, seen)
