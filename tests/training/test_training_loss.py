import pytest
import torch

from mhc_vision.models.instruments.contribution import image_losses
from mhc_vision.training.loss import classification_loss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
LABELS = torch.tensor([0, 2])
ONE_HOT = torch.nn.functional.one_hot(LABELS, 3).float()


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_hard_labels_and_their_one_hot_form_cost_the_same(kind):
    loss = classification_loss(kind)
    torch.testing.assert_close(loss(LOGITS, LABELS), loss(LOGITS, ONE_HOT))


@pytest.mark.parametrize("kind", ["ce", "bce"])
@pytest.mark.parametrize("targets", [LABELS, ONE_HOT], ids=["indices", "probabilities"])
def test_the_loss_is_the_mean_of_those_of_the_images(kind, targets):
    of_images = image_losses(kind, LOGITS, targets)
    torch.testing.assert_close(of_images.mean(), classification_loss(kind)(LOGITS, targets))
    torch.testing.assert_close(of_images[:1], image_losses(kind, LOGITS[:1], targets[:1]))


def test_label_smoothing_is_the_loss_of_smoothed_targets():
    smoothed = 0.9 * ONE_HOT + 0.1 / 3
    torch.testing.assert_close(
        classification_loss("ce", 0.1)(LOGITS, LABELS), classification_loss("ce")(LOGITS, smoothed)
    )


def test_bce_counts_every_class_of_a_mixed_image_as_present():
    loss = classification_loss("bce")
    mixed = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(loss(LOGITS, mixed), loss(LOGITS, (mixed > 0).float()))


@pytest.mark.parametrize(("kind", "smoothing"), [("mse", 0.0), ("ce", 1.0), ("ce", -0.1), ("bce", 0.1)])
def test_what_cannot_be_is_refused(kind, smoothing):
    with pytest.raises(ValueError, match=r"loss|label_smoothing"):
        classification_loss(kind, smoothing)
