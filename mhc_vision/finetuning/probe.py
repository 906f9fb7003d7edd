"""Probes of frozen features: each image goes through the model once, all else happens on its features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from mhc_vision.data.datamodule import ImageDataModule
from mhc_vision.data.division import hold_out
from mhc_vision.finetuning.linear_probe import LinearHead, logistic_head, sgd_heads
from mhc_vision.finetuning.module import FinetuneModule
from mhc_vision.finite import check_finite_rows, right_rows
from mhc_vision.inference.knn import knn_probabilities
from mhc_vision.predictions import Predictions, Said, without_images
from mhc_vision.progress import note
from mhc_vision.training.callbacks.predictions import class_names

_HELD_OUT = 0.1
"""Share of the training features by which a linear probe chooses."""


@dataclass(frozen=True)
class FeatureSet:
    """Features (N, C), fp32, and labels (N,), int64, of a split."""

    features: Tensor
    labels: Tensor

    def at(self, indices: list[int]) -> "FeatureSet":
        """Some of them."""
        return FeatureSet(self.features[indices], self.labels[indices])


@dataclass(frozen=True)
class Candidate:
    """One way to fit a linear probe, and its accuracy on held-out training features, in [0, 1]."""

    solver: str
    value: float
    accuracy: float

    @property
    def description(self) -> str:
        """In words."""
        fitted = f"SGD with learning rate {self.value:g}" if self.solver == "sgd" else f"logistic, C = {self.value:g}"
        return f"{fitted}, {100 * self.accuracy:.2f} % of the held-out training images"


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        metrics: `val/...` and, where the data has a test set of its own, `test/...`, as in a training.
        candidates: Of a linear probe: what it tried.
        chosen: The most accurate of them, which was fitted again to all training features.
    """

    metrics: dict[str, float]
    candidates: list[Candidate] = field(default_factory=list)
    chosen: Candidate | None = None


def run_probe(
    trainer: Trainer, module: FinetuneModule, data: ImageDataModule
) -> tuple[ProbeResult, Predictions | None]:
    """Runs the module's probe; after a linear one its model has the head that was found.

    Args:
        trainer: Of one process, which has the whole model.
        module: With the method `linear` or `knn`.
        data: Training images are taken as in evaluation, without augmentation.

    Returns:
        What it found, and what it says of the images of the test, or else of the validation, without the images.

    Raises:
        ImportError: If the linear probe needs scikit-learn and it is missing.
        ValueError: If there are several processes, a strategy that shards, too few images, or features that are not
            finite.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy):
        # outside of `forward`, which features are of, the weights stay shards
        raise ValueError(
            f"trainer.strategy: got {type(trainer.strategy).__name__} for a probe, expected one process that has the "
            "whole model; leave the strategy out"
        )
    if trainer.world_size > 1:
        raise ValueError(f"trainer.devices: got {trainer.world_size} processes, expected one for a probe")
    splits = extract_features(trainer, module, data)
    settings = module.hparams
    if settings["method"] == "linear":
        head, chosen, candidates = fit_linear_probe(splits["train"], data.num_classes, settings, data.seed)
        install_head(module.get_submodule("model"), head)
        scores: Callable[[Tensor], Tensor] = head
    else:
        chosen, candidates = None, []

        def scores(features: Tensor) -> Tensor:
            train = splits["train"]
            return knn_probabilities(
                features, train.features, train.labels, data.num_classes, settings["knn_k"], settings["knn_temperature"]
            )

    metrics: dict[str, float] = {}
    predictions: Predictions | None = None
    for split, accuracy in (("val", module.val_accuracy), ("test", module.test_accuracy)):
        if split in splits:
            logits, labels = scores(splits[split].features), splits[split].labels
            accuracy.to(logits.device).reset()
            metrics |= {name: value.item() for name, value in accuracy(logits, labels).items()}
            if settings["method"] == "linear":
                metrics[f"{split}/loss"] = F.cross_entropy(logits, labels).item()
            else:
                # probabilities, of which many are 0
                logits = logits.clamp_min(torch.finfo(logits.dtype).tiny).log()
            place = {"val": "validation of the probe", "test": "test of the probe"}[split]
            predictions = without_images(Said.of(logits, labels), class_names(trainer, module), place)
    return ProbeResult(metrics, candidates, chosen), predictions


def extract_features(trainer: Trainer, module: FinetuneModule, data: ImageDataModule) -> dict[str, FeatureSet]:
    """Features of the splits `train`, `val` and, where the data has one of its own, `test`, on the module's device.

    Raises:
        ValueError: If some are not finite.
    """
    outputs: Any = trainer.predict(module, datamodule=data)
    names = ("train", "val", "test")[: len(outputs)]
    device = trainer.strategy.root_device
    splits = {
        name: FeatureSet(*(torch.cat(parts).to(device) for parts in zip(*batches, strict=True)))
        for name, batches in zip(names, outputs, strict=True)
    }
    if data.has_test_set:
        # where validation reads the test images, they went through the model once
        splits.setdefault("test", splits["val"])
    for name, split in splits.items():
        check_finite_rows("features", split.features, f"images to {name}")
    return splits


def fit_linear_probe(
    train: FeatureSet, num_classes: int, settings: Mapping[str, Any], seed: int
) -> tuple[LinearHead, Candidate, list[Candidate]]:
    """The best of the heads that the settings ask for, chosen on a tenth of each class and fitted again to all.

    Validation images take no part in the choice, as some datasets have none but those of the test.

    Args:
        train: Features of the training images.
        num_classes: Number of classes.
        settings: `probe_lrs`, `probe_epochs` and `probe_cs`.
        seed: Of the order in SGD.

    Returns:
        The head, what it was fitted by, and what was tried; what diverges is never chosen.

    Raises:
        ValueError: If features are not finite, or nothing that was tried gives a head that is.
    """
    kept, held_out = (train.at(indices) for indices in hold_out(train.labels.tolist(), _HELD_OUT))
    lrs, cs, epochs = settings["probe_lrs"], settings["probe_cs"], settings["probe_epochs"]
    note(f"fitting a head for each of {len(lrs)} learning rates and {len(cs)} strengths of regularisation")
    tried = [
        *zip(lrs, sgd_heads(kept.features, kept.labels, num_classes, lrs, epochs, seed), strict=True),
        *((c, logistic_head(kept.features, kept.labels, num_classes, c)) for c in cs),
    ]
    candidates = [
        Candidate("sgd" if place < len(lrs) else "logistic", value, _accuracy(fitted, held_out))
        for place, (value, fitted) in enumerate(tried)
    ]
    finite = [candidate for candidate, (_, fitted) in zip(candidates, tried, strict=True) if fitted.is_finite]
    if not finite:
        raise ValueError(f"probe_lrs: got {list(lrs)}, which all diverge, expected lower ones")
    best = max(finite, key=lambda candidate: candidate.accuracy)
    note("fitting the best of them again, to all training images")
    if best.solver == "sgd":
        (head,) = sgd_heads(train.features, train.labels, num_classes, [best.value], epochs, seed)
    else:
        head = logistic_head(train.features, train.labels, num_classes, best.value)
    if not head.is_finite:
        raise ValueError(f"probe_lrs: got {best}, which diverges on all training images, expected lower ones")
    return head, best, candidates


def install_head(model: nn.Module, head: LinearHead) -> None:
    """Makes a linear probe the head of a model; of two heads (distilled models) both, whose mean it then is."""
    heads = model.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        for linear in heads if isinstance(heads, tuple) else (heads,):
            linear.weight.copy_(head.weight)
            linear.bias.copy_(head.bias)


def _accuracy(head: LinearHead, split: FeatureSet) -> float:
    return right_rows(head(split.features), split.labels).float().mean().item()
