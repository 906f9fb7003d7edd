import pytest
import torch
import torch.nn.functional as F

from mhc_vision.finetuning.linear_probe import logistic_head, sgd_heads
from mhc_vision.finetuning.probe import FeatureSet, fit_linear_probe


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes, one standard deviation apart in features whose scales differ by a factor of 1000."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    centers = torch.randn(3, 6, generator=generator)
    features = centers[labels] + torch.randn(600, 6, generator=generator)
    return features * torch.logspace(-1, 2, 6) + 5, labels


def test_one_pass_with_many_rates_gives_the_heads_of_runs_with_one_rate(blobs):
    together = sgd_heads(*blobs, 3, [0.01, 0.3], epochs=3, seed=1)
    for lr, head in zip((0.01, 0.3), together, strict=True):
        (alone,) = sgd_heads(*blobs, 3, [lr], epochs=3, seed=1)
        torch.testing.assert_close(head.weight, alone.weight)
        torch.testing.assert_close(head.bias, alone.bias)
    assert not torch.allclose(together[0].weight, together[1].weight)


def test_a_head_is_what_torchs_sgd_makes_of_standardised_features(blobs):
    features, labels = blobs
    (head,) = sgd_heads(features, labels, 3, [0.1], epochs=2, seed=0)
    inputs = (features - features.mean(0)) / features.std(0)
    linear = torch.nn.Linear(6, 3)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    order = torch.Generator().manual_seed(0)
    for _ in range(2):
        for indices in torch.randperm(600, generator=order).split(256):
            optimizer.zero_grad()
            F.cross_entropy(linear(inputs[indices]), labels[indices]).backward()
            optimizer.step()
            schedule.step()
    # the head takes raw features, in fp32
    torch.testing.assert_close(head(features), linear(inputs), rtol=1e-3, atol=1e-3)


def test_sgd_and_logistic_regression_find_the_same_classes(blobs):
    features, labels = blobs
    (by_sgd,) = sgd_heads(features, labels, 3, [0.1], epochs=100, seed=0)
    by_lbfgs = logistic_head(features, labels, 3, c=100.0)
    agreement = (by_sgd(features).argmax(1) == by_lbfgs(features).argmax(1)).float().mean()
    assert agreement > 0.98


def test_logistic_regression_minimises_the_regularised_loss(blobs):
    features, labels = blobs
    head = logistic_head(features, labels, 3, c=0.1)
    inputs = (features - features.mean(0)) / features.std(0)
    weight = (head.weight * features.std(0)).requires_grad_()
    bias = (head.bias + head.weight @ features.mean(0)).requires_grad_()
    loss = F.cross_entropy(F.linear(inputs, weight, bias), labels, reduction="sum") + weight.square().sum() / (2 * 0.1)
    gradients = torch.autograd.grad(loss, [weight, bias])
    # of a sum over 600 samples, whose single gradients are of the order of 1
    assert max(gradient.abs().max() for gradient in gradients) < 0.1


def test_two_classes_have_two_rows(blobs):
    features, labels = blobs
    head = logistic_head(features, labels % 2, 2, c=1.0)
    assert head.weight.shape == (2, 6)
    assert ((head(features).argmax(1) == labels % 2).float().mean()) > 0.6


def test_a_class_without_samples_is_named_a_fault(blobs):
    with pytest.raises(ValueError, match="probe_cs: got 1 of 4 classes without samples, expected none"):
        logistic_head(*blobs, 4, c=1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e25])
def test_features_that_are_not_finite_are_refused_and_counted(blobs, bad):
    features, labels = blobs
    features[5:8, 2] = bad
    message = "features: got NaN or infinity for 3 of 600 training images"
    with pytest.raises(ValueError, match=message):
        sgd_heads(features, labels, 3, [0.1], epochs=1, seed=0)
    with pytest.raises(ValueError, match=message):
        logistic_head(features, labels, 3, c=1.0)


def test_a_rate_that_diverges_is_never_chosen(blobs):
    features, labels = blobs
    # class 0 is the largest: what argmax makes of NaN would be the best
    train = FeatureSet(features, torch.where(torch.arange(600) % 10 < 7, 0, labels))
    settings = {"probe_lrs": [1e38, 0.001], "probe_epochs": 3, "probe_cs": []}
    head, chosen, candidates = fit_linear_probe(train, 3, settings, seed=0)
    assert (chosen.value, head.is_finite) == (0.001, True)
    assert candidates[0].accuracy == 0
    with pytest.raises(ValueError, match=r"probe_lrs: got \[1e\+38\], which all diverge"):
        fit_linear_probe(train, 3, {**settings, "probe_lrs": [1e38]}, seed=0)
