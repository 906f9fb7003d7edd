"""From a model to an ONNX file, checked against PyTorch, with what its user must know beside it."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mhc_vision.atomic_files import json_text, new_directory
from mhc_vision.finite import check_finite_rows
from mhc_vision.inference.load_model import LoadedModel, load_model
from mhc_vision.inference.logits import check_runs
from mhc_vision.inference.model_class_names import names_of_classes
from mhc_vision.inference.model_identity import model_identity
from mhc_vision.inference.options import ModelOptions
from mhc_vision.progress import note
from mhc_vision.version import versions

OPSET = 18
"""Of ONNX: the one that torch's exporter is written for; others are converted from it."""

TOLERANCE = 1e-4
"""Largest difference from PyTorch's logits, as part of the largest logit: another runtime adds up in another order,
which is 1e-6 for a ViT-B with mHC; even another approximation of GELU is off by more than this."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_BATCH_SIZES = (1, 3)
_MAX_WEIGHT_BYTES = 2**31 - 2**27  # protocol buffers end at 2 GiB, and the graph takes its part


def export_onnx(name: str, directory: Path, model_options: ModelOptions | None = None) -> dict[str, Any]:
    """Writes `model.onnx`, from normalised images to logits for any number of images, and `model.json`, about both.

    Weights of almost 2 GiB and more, which one ONNX file cannot hold, go to `model.onnx.data` beside it.

    Args:
        name: Of the model, as in `load_model`; of images with any number of channels.
        directory: Where to; it must not be there yet, and appears when the file has given PyTorch's logits in
            onnxruntime.
        model_options: Of `load_model`.

    Returns:
        What is in `model.json`: `model`, `source`, what `model_identity` says, `weights`, `input` (`name`, `shape`,
            `dtype` and how to make its `values`), `output`, `opset`, `task`, `class_names` (by index; null where
            nothing names them), `mean` and `std` (for pixels in 0..1), `img_size`, `crop_pct`, `crop_mode`,
            `interpolation`, `exif_orientation` (whether photos were turned upright in training; null where the model
            does not say), `probabilities` (what makes them of the logits), `check` and `versions`.

    Raises:
        ValueError: If the directory is there, the model cannot be had, cannot be exported, or gives other logits or
            some that are not finite.
        ImportError: If a package for it is missing.
    """
    if directory.exists():
        raise ValueError(f"directory: got {directory}, which is there already, expected a new one")
    if missing := [package for package in _PACKAGES if importlib.util.find_spec(package) is None]:
        raise ImportError(f"the ONNX export needs {', '.join(missing)}: pip install 'mhc-vision[onnx]'")
    model_options = model_options or ModelOptions()
    loaded = load_model(name, **vars(model_options), needs_rgb_classes=False, segmentation=True)
    if not loaded.num_classes:
        raise ValueError(f"model: got {name}, the weights of a backbone, expected a model with classes")
    check_runs(loaded.model, loaded, torch.device("cpu"))
    sides = [loaded.in_chans, loaded.img_size, loaded.img_size]
    record: dict[str, Any] = {
        "model": name,
        "source": loaded.source,
        **model_identity(loaded),
        "weights": model_options.weights,
        "input": {
            "name": "images",
            "shape": ["batch", *sides],
            "dtype": "float32",
            "values": "(pixel / 255 - mean) / std of each channel: the file does not normalise",
        },
        "output": {"name": "logits", "shape": ["batch", *loaded.logits_shape], "dtype": "float32"},
        "opset": OPSET,
        "task": "semantic segmentation" if loaded.is_segmenter else "image classification",
        "class_names": names_of_classes(loaded),
        **loaded.data_settings(),
        "probabilities": loaded.probabilities,
    }
    with new_directory(directory) as temporary:
        note("tracing the model and writing it as ONNX")
        _write(loaded, temporary / "model.onnx")
        note(f"running the file in onnxruntime, on {' and '.join(map(str, _BATCH_SIZES))} images")
        record["check"] = _check(loaded, temporary / "model.onnx")
        record["versions"] = versions()
        (temporary / "model.json").write_text(json_text(record, indent=2) + "\n", encoding="utf-8")
    return record


def _write(loaded: LoadedModel, path: Path) -> None:
    num_bytes = sum(tensor.nbytes for tensor in loaded.model.state_dict().values())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # the exporter's own use of what torch deprecates
            warnings.simplefilter("ignore", category=(DeprecationWarning, FutureWarning))
            torch.onnx.export(
                loaded.model,
                # two: a graph traced with one image may hold for one only
                (_noise(loaded, 2),),
                path,
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=num_bytes > _MAX_WEIGHT_BYTES,
            )
    except RuntimeError as error:
        # torch's own text is a page about how to debug an export
        cause = error.__cause__ or error
        reason = str(cause).split("\n", maxsplit=1)[0]
        raise ValueError(
            f"model: {loaded.source} cannot be exported to ONNX: {type(cause).__name__}: {reason}"
        ) from error


@torch.inference_mode()
def _check(loaded: LoadedModel, path: Path) -> dict[str, Any]:
    """Runs the file in onnxruntime and compares.

    Returns:
        Its version, the numbers of images, the largest difference as part of the largest logit, and the tolerance.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for batch_size in _BATCH_SIZES:
        images = _noise(loaded, batch_size)
        outputs = loaded.model(images)
        check_finite_rows("model", outputs, "images of noise")
        expected = outputs.numpy()
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        scale = np.abs(expected).max() or 1.0
        differences.append(float(np.abs(logits - expected).max() / scale))
    # a NaN is no agreement either
    if not all(difference <= TOLERANCE for difference in differences):
        found = ", ".join(f"{difference:.2g}" for difference in differences)
        raise ValueError(
            f"model: got other logits from the ONNX file of {loaded.source} than from PyTorch: they differ by {found} "
            f"of the largest one, expected at most {TOLERANCE:g}; nothing is kept"
        )
    return {
        "onnxruntime": onnxruntime.__version__,
        "batch_sizes": _BATCH_SIZES,
        "relative_difference": max(differences),
        "tolerance": TOLERANCE,
    }


def _noise(loaded: LoadedModel, batch_size: int) -> Tensor:
    """Normalised images have about the mean and deviation of this."""
    generator = torch.Generator().manual_seed(batch_size)
    return torch.randn(batch_size, loaded.in_chans, loaded.img_size, loaded.img_size, generator=generator)
