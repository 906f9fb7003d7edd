"""Accuracy of a loaded model on images, each of which counts exactly once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.accuracy import accuracies
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.inference.logits import image_logits
from mhc_vision.inference.options import EvaluationOptions
from mhc_vision.predictions import Said


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` gives.

    Attributes:
        num_images: That were read and count.
        top1: Part of them whose label comes first, in [0, 1]; `None` without labels.
        top5: Whose label is among the first five; `None` for five classes or fewer, too.
        loss: Mean cross-entropy, whatever loss the model was trained with; `None` without labels.
        predictions: (N,) int64, the first class of each image in the order given; -1 for those that cannot be read.
        said: Labels, classes and confidences of the images that count, in the order of `places`; `None` without labels.
        places: Of these images among all, (num_images,) int64.
        broken: What is wrong with each of these, with its name.
        images_per_s: Of all that happens, reading included.
    """

    num_images: int
    top1: float | None
    top5: float | None
    loss: float | None
    predictions: Tensor
    said: Said | None
    places: Tensor
    broken: list[str]
    images_per_s: float


@torch.inference_mode()
def evaluate(
    loaded: LoadedModel, paths: Sequence[str], labels: Sequence[int] | None, options: EvaluationOptions
) -> Evaluation:
    """Runs a model on image files.

    Args:
        loaded: The model and how its images are made.
        paths: Files that `decode_rgb` reads, at least one.
        labels: Class index of each; `None` if only the predictions are of interest.
        options: How.

    Raises:
        ValueError: If the data settings are out of range, the model does not run on one of its images, an image cannot
            be read (unless `broken` is `"skip"`), none can, or the model gives logits that are not finite.
    """
    batches = image_logits(loaded, paths, options, "evaluate")
    device = options.torch_device()
    accuracy = accuracies(loaded.num_classes).to(device)
    # torchmetrics' mean leaves NaN out, or with nan_strategy="disable" the weights of its values
    loss = torch.zeros((), device=device)
    targets = None if labels is None else torch.tensor(labels)
    predictions = torch.full((len(paths),), -1)
    broken: list[str] = []
    said: list[Said] = []
    places: list[Tensor] = []
    started = time.perf_counter()
    for indices, logits, errors in batches:
        if errors and options.broken == "raise":
            raise ValueError(errors[0])
        broken.extend(errors)
        if not len(indices):
            continue
        predictions[indices] = logits.argmax(1).cpu()
        places.append(indices)
        if targets is not None:
            batch_labels = targets[indices].to(device, non_blocking=True)
            said.append(Said.of(logits, batch_labels))
            accuracy.update(logits, batch_labels)
            loss += F.cross_entropy(logits, batch_labels, reduction="sum")
    num_images = len(paths) - len(broken)
    if num_images == 0:
        raise ValueError(
            f"folder: got {len(paths)} broken images, expected one that can be read; the first: {broken[0]}"
        )
    figures = {} if targets is None else {name: value.item() for name, value in accuracy.compute().items()}
    return Evaluation(
        num_images=num_images,
        top1=figures.get("top1"),
        top5=figures.get("top5"),
        loss=None if targets is None else (loss / num_images).item(),
        predictions=predictions,
        said=Said.join(said) if said else None,
        places=torch.cat(places),
        broken=broken,
        images_per_s=num_images / (time.perf_counter() - started),
    )
