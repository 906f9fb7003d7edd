"""A timm model with the weights of a local file."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
from safetensors import SafetensorError
from timm.models import get_pretrained_cfg, load_state_dict
from torch import nn

from mhc_vision.stored.weights import short_reason

_JAX_SUFFIXES = (".npz", ".npy")
_READ_ERRORS = (
    *(OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError),
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile),
)


def create_from_file(name: str, path: Path, **arguments: Any) -> nn.Module:
    """Creates a timm model and loads a file into it, converted and resampled as timm does with its own downloads.

    All weights must fit; the head has as many classes as the file's, none where it has no head.

    Args:
        name: Of an architecture, with a tag or without.
        path: `.safetensors`, `.npz` of the JAX releases, or what `torch.load` reads without running code.
        **arguments: Of `timm.create_model`.

    Raises:
        ValueError: If there is no such file or model, the file cannot be read, or the weights do not fit.
    """
    if not path.is_file():
        raise ValueError(f"weights_file: got {path}, expected a file that is there")
    cfg = get_pretrained_cfg(name)
    classifier = "head" if cfg is None or cfg.classifier is None else cfg.classifier
    try:
        num_classes = _num_classes(path, classifier)
        overlay = {"file": str(path), "num_classes": num_classes, "custom_load": path.suffix in _JAX_SUFFIXES}
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **arguments
        )
    except _READ_ERRORS as error:
        raise ValueError(f"weights_file: got {path}, expected weights of {name}: {short_reason(error)}") from error


def _num_classes(path: Path, classifier: str | tuple[str, ...]) -> int:
    """Classes of the head in a file, 0 where it has none."""
    if path.suffix in _JAX_SUFFIXES:
        with np.load(path) as arrays:
            return len(arrays["head/bias"]) if "head/bias" in arrays.files else 0
    name = classifier if isinstance(classifier, str) else classifier[0]
    bias = load_state_dict(str(path)).get(f"{name}.bias")
    return 0 if bias is None else len(bias)
