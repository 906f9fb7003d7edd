import math

import numpy as np
import pytest
import torch

from mhc_vision.segmentation_scores import IGNORED, pixel_losses, segmentation_scores

CLASSES = 6


def masks(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a random image: ignored pixels, a class that is never there, one that is never predicted."""
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 1, 2, 4, IGNORED], size=(1, 9, 7))
    logits = generator.normal(size=(1, CLASSES, 9, 7))
    logits[:, 4] = -9
    if seed % 2:
        logits[:, 5] = -9
    return torch.from_numpy(logits), torch.from_numpy(labels)


def counted(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Pixel by pixel, without a library."""
    inside, there, said = [0] * CLASSES, [0] * CLASSES, [0] * CLASSES
    for logits, labels in pairs:
        for scores, label in zip(logits[0].flatten(1).T.tolist(), labels.flatten().tolist(), strict=True):
            if label == IGNORED:
                continue
            guess = scores.index(max(scores))
            there[label] += 1
            said[guess] += 1
            inside[label] += guess == label
    known = [label for label in range(CLASSES) if there[label] + said[label]]
    iou = [inside[label] / (there[label] + said[label] - inside[label]) for label in known]
    dice = [2 * inside[label] / (there[label] + said[label]) for label in known]
    return {
        "mean_iou": sum(iou) / len(iou),
        "mean_dice": sum(dice) / len(dice),
        "pixel_accuracy": sum(inside) / sum(there),
    }


def test_scores_are_those_of_a_count_by_hand() -> None:
    scores = segmentation_scores(CLASSES)
    pairs = [masks(seed) for seed in range(50)]
    for number, (logits, labels) in enumerate(pairs):
        one = segmentation_scores(CLASSES)
        one.update(logits, labels)
        assert {name: value.item() for name, value in one.compute().items()} == pytest.approx(counted([pairs[number]]))
        scores.update(logits, labels)
    assert {name: value.item() for name, value in scores.compute().items()} == pytest.approx(counted(pairs))


def test_batches_add_up_in_any_order() -> None:
    pairs = [masks(seed) for seed in range(6)]
    together, apart = segmentation_scores(CLASSES), segmentation_scores(CLASSES)
    together.update(torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs]))
    for logits, labels in reversed(pairs):
        apart.update(logits, labels)
    assert together.compute() == apart.compute()


def test_logits_that_are_not_finite_are_wrong_everywhere() -> None:
    _, labels = masks(0)
    right = torch.nn.functional.one_hot(labels.clamp_max(CLASSES - 1), CLASSES).movedim(-1, 1).double()
    scores = segmentation_scores(CLASSES)
    scores.update(right, labels)
    assert scores.compute()["pixel_accuracy"] == 1
    right[0, 0, 0, 0] = math.nan
    scores.reset()
    scores.update(right, labels)
    assert scores.compute()["pixel_accuracy"] == 0


def test_of_no_pixels_there_is_no_score() -> None:
    scores = segmentation_scores(CLASSES)
    scores.update(masks(0)[0], torch.full((1, 9, 7), IGNORED))
    assert all(value.isnan() for value in scores.compute().values())


def test_small_logits_are_resized_to_the_masks() -> None:
    logits, labels = masks(1)
    small = torch.nn.functional.interpolate(logits, (5, 4), mode="bilinear")
    scores, by_hand = segmentation_scores(CLASSES), segmentation_scores(CLASSES)
    scores.update(small, labels)
    by_hand.update(torch.nn.functional.interpolate(small, (9, 7), mode="bilinear", align_corners=False), labels)
    assert scores.compute() == by_hand.compute()


def test_the_loss_of_an_image_is_the_mean_over_its_own_pixels() -> None:
    (first, some), (second, other) = masks(2), masks(3)
    losses = pixel_losses(torch.cat([first, second]), torch.cat([some, other]))
    for loss, logits, labels in ((losses[0], first, some), (losses[1], second, other)):
        chosen = labels != IGNORED
        probabilities = logits.movedim(1, -1)[chosen].softmax(-1)
        expected = -probabilities.gather(1, labels[chosen][:, None]).log().mean()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    # as where a crop fell into a stripe of no class
    nothing = pixel_losses(first.requires_grad_(), torch.full_like(some, IGNORED))
    nothing.sum().backward()
    assert nothing.item() == 0
    assert first.grad is not None
    assert first.grad.abs().max() == 0
