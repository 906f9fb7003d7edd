"""Accuracy of a loaded model on images, each of which counts exactly once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from tqdm import tqdm

from mhc_vision.data.batch_augment import BatchAugment
from mhc_vision.data.evaluation_images import EvaluationImages, collate_readable
from mhc_vision.data.transforms import eval_transform
from mhc_vision.training.load_model import LoadedModel


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate; nothing but `precision` and `broken` changes what comes out.

    Args:
        batch_size: Images a batch.
        num_workers: Processes that load images, 0 to load in the main process.
        device: `"auto"` (a GPU where there is one), or a device of torch.
        precision: `"32"`, or `"bf16"` for autocast.
        broken: What an image that cannot be decoded does: `"raise"` an error, or `"skip"`: it does not count.

    Raises:
        ValueError: If an option is out of range.
    """

    batch_size: int = 128
    num_workers: int = 4
    device: str = "auto"
    precision: Literal["32", "bf16"] = "32"
    broken: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or positive, got {self.num_workers}")
        if self.precision not in ("32", "bf16"):
            raise ValueError(f"precision must be '32' or 'bf16', got {self.precision!r}")
        if self.broken not in ("raise", "skip"):
            raise ValueError(f"broken must be 'raise' or 'skip', got {self.broken!r}")
        self.torch_device()

    def torch_device(self) -> torch.device:
        """The device that `device` means on this machine."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            # a device can be well-formed and not be there
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"device: got {self.device!r}, which torch cannot use: {error}") from error
        return device


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` gives.

    Attributes:
        num_images: That were read and count.
        top1: Part of them whose label comes first, in [0, 1]; `None` without labels.
        top5: Whose label is among the first five; `None` for five classes or fewer, too.
        loss: Mean cross-entropy, whatever loss the model was trained with; `None` without labels.
        predictions: (N,) int64, the first class of each image in the order given; -1 for those that cannot be read.
        broken: What is wrong with each of these, with its name.
        images_per_s: Of all that happens, reading included.
    """

    num_images: int
    top1: float | None
    top5: float | None
    loss: float | None
    predictions: Tensor
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
            be read (unless `broken` is `"skip"`), or none can.
    """
    transform = eval_transform(loaded.img_size, loaded.interpolation, loaded.crop_pct, loaded.crop_mode)
    device = options.torch_device()
    loader = DataLoader(
        EvaluationImages(paths, transform),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        collate_fn=collate_readable,
        pin_memory=device.type == "cuda",
    )
    model = loaded.model.to(device)
    _check_runs(model, loaded, device)
    normalise = BatchAugment(loaded.mean, loaded.std, loaded.num_classes).eval().to(device)
    accuracy, loss = _accuracies(loaded.num_classes).to(device), MeanMetric().to(device)
    targets = None if labels is None else torch.tensor(labels)
    predictions = torch.full((len(paths),), -1)
    broken: list[str] = []
    started = time.perf_counter()
    # disable=None: no bar where stderr is a file
    for indices, images, errors in tqdm(loader, desc="evaluate", unit="batch", disable=None):
        if errors and options.broken == "raise":
            raise ValueError(errors[0])
        broken.extend(errors)
        if not len(indices):
            continue
        batch_labels = (indices if targets is None else targets[indices]).to(device, non_blocking=True)
        images, batch_labels = normalise(images.to(device, non_blocking=True), batch_labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model(images)
        logits = logits.float()
        predictions[indices] = logits.argmax(1).cpu()
        if targets is not None:
            accuracy.update(logits, batch_labels)
            loss.update(F.cross_entropy(logits, batch_labels), weight=len(indices))
    num_images = len(paths) - len(broken)
    if num_images == 0:
        raise ValueError(f"folder: none of the {len(paths)} images can be read; the first: {broken[0]}")
    figures = {} if targets is None else {name: value.item() for name, value in accuracy.compute().items()}
    return Evaluation(
        num_images=num_images,
        top1=figures.get("top1"),
        top5=figures.get("top5"),
        loss=None if targets is None else loss.compute().item(),
        predictions=predictions,
        broken=broken,
        images_per_s=num_images / (time.perf_counter() - started),
    )


def _accuracies(num_classes: int) -> MetricCollection:
    # labels were checked with the folders, and torchmetrics' own check waits for the GPU in each batch
    by_name = {
        f"top{k}": MulticlassAccuracy(num_classes, top_k=k, average="micro", validate_args=False)
        for k in (1, 5)
        if k == 1 or num_classes > k
    }
    return MetricCollection(dict(by_name))


def _check_runs(model: nn.Module, loaded: LoadedModel, device: torch.device) -> None:
    """Finds a size that the model does not take, or an output that is no logits, before an image is read."""
    image = torch.zeros(1, 3, loaded.img_size, loaded.img_size, device=device)
    try:
        logits = model(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"model: {loaded.source} does not run on images of {loaded.img_size} pixels: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, loaded.num_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model: {loaded.source} gives {got} for an image, expected logits (1, {loaded.num_classes})")
