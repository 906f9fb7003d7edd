"""Accuracies against scikit-learn's, and of logits that are not finite."""

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from mhc_vision.accuracy import ClassAccuracy, NotFiniteRows, accuracies


def _drawn(num_classes: int, occurring: list[int], count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.tensor(occurring)[torch.randint(len(occurring), (count,), generator=generator)]
    logits = torch.randn(count, num_classes, generator=generator)
    logits[torch.arange(count), labels] += 1.0
    return logits, labels


# scikit-learn warns of predictions of classes that do not occur, which is what is tested
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("occurring", [list(range(7)), [1, 4], [3]], ids=str)
def test_the_mean_per_class_is_over_the_classes_that_occur(occurring):
    logits, labels = _drawn(7, occurring)
    predicted = logits.argmax(1)
    if len(occurring) < 7:
        assert set(predicted.tolist()) - set(occurring), "a class that does not occur must be predicted"
    metric = ClassAccuracy(7, average="macro")
    for part in range(0, 200, 32):
        metric.update(logits[part : part + 32], labels[part : part + 32])
    expected = balanced_accuracy_score(labels.numpy(), predicted.numpy())
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)


def test_top1_and_top5_are_scikit_learns():
    logits, labels = _drawn(10, list(range(10)))
    figures = accuracies(10, prefix="val/")(logits, labels)
    assert figures["val/top1"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=5, labels=range(10))
    assert figures["val/top5"].item() == pytest.approx(expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_model_of_nan_has_no_accuracy(bad):
    logits, labels = _drawn(10, list(range(10)))
    figures = accuracies(10, mean_per_class=True)(torch.full_like(logits, bad), torch.zeros_like(labels))
    assert {name: value.item() for name, value in figures.items()} == {"top1": 0, "top5": 0, "mean_per_class": 0}


def test_rows_that_are_not_finite_are_wrong_and_counted_and_the_others_are_not():
    logits, labels = _drawn(10, list(range(10)))
    right = logits.argmax(1) == labels
    logits[:50, 3] = float("nan")
    # all metrics alike after the first batch: they must not be taken for one
    metrics, count = accuracies(10), NotFiniteRows()
    for part in (slice(0, 50), slice(50, 200)):
        metrics.update(logits[part], labels[part])
        count.update(logits[part])
    figures = metrics.compute()
    assert figures["top1"].item() == pytest.approx(right[50:].sum().item() / 200)
    assert figures["top5"] > figures["top1"]
    assert count.compute() == 50


def test_no_samples_have_no_accuracy():
    metric = ClassAccuracy(3, average="macro")
    metric.update(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert math.isnan(metric.compute())
