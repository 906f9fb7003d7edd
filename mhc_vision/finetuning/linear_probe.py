"""Linear classifiers of frozen features: many learning rates at once, and logistic regression."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.finite import check_finite_rows, not_finite

_BATCH_SIZE = 256
_MOMENTUM = 0.9
_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearHead:
    """logits = features @ weightᵀ + bias.

    Attributes:
        weight: (num_classes, C), fp32.
        bias: (num_classes,), fp32.
    """

    weight: Tensor
    bias: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether no number of it is NaN or infinite, as after too high a learning rate."""
        return not not_finite({"weight": self.weight, "bias": self.bias})

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (N, num_classes) of features (N, C)."""
        return F.linear(features, self.weight, self.bias)


def sgd_heads(
    features: Tensor, labels: Tensor, num_classes: int, lrs: Sequence[float], epochs: int, seed: int
) -> list[LinearHead]:
    """Trains one head for each learning rate, all of them on the same batches.

    SGD with momentum 0.9, cosine decay to zero, no weight decay, cross-entropy, batches of 256; features are
    standardised, which is folded into the heads that are returned.

    Args:
        features: (N, C), fp32, of the training samples.
        labels: (N,), int64.
        num_classes: Number of classes.
        lrs: Learning rates.
        epochs: Passes over the features.
        seed: Of the order.

    Raises:
        ValueError: If features are not finite.
    """
    mean, std = _moments(features)
    inputs = (features - mean) / std
    weight = torch.zeros(len(lrs), features.shape[1], num_classes, device=features.device, requires_grad=True)
    bias = torch.zeros(len(lrs), 1, num_classes, device=features.device, requires_grad=True)
    # one learning rate per head: the gradients are scaled, as momentum is linear in them
    rates = torch.tensor(lrs, device=features.device).view(-1, 1, 1)
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=_MOMENTUM)
    batches = math.ceil(len(inputs) / _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * batches)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for indices in torch.randperm(len(inputs), generator=order).to(features.device).split(_BATCH_SIZE):
            logits = inputs[indices] @ weight + bias
            targets = labels[indices].expand(len(lrs), -1)
            # the mean of each head's batch, summed over heads that know nothing of each other
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / len(indices)
            optimizer.zero_grad()
            loss.backward()
            for parameter in (weight, bias):
                parameter.grad *= rates  # type: ignore[operator]
            optimizer.step()
            schedule.step()
    return [
        _unstandardised(w.t(), b.squeeze(0), mean, std) for w, b in zip(weight.detach(), bias.detach(), strict=True)
    ]


def logistic_head(features: Tensor, labels: Tensor, num_classes: int, c: float) -> LinearHead:
    """Multinomial logistic regression by L-BFGS (scikit-learn's), on standardised features.

    Args:
        features: (N, C), fp32, of the training samples.
        labels: (N,), int64, with samples of every class.
        num_classes: Number of classes.
        c: Inverse strength of the L2 regularisation.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If a class has no sample, or features are not finite.
    """
    if absent := num_classes - len(labels.unique()):
        raise ValueError(
            f"probe_cs: got {absent} of {num_classes} classes without samples, expected none; set probe_cs to []"
        )
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("logistic regression needs scikit-learn: pip install 'mhc-vision[finetune]'") from error
    mean, std = _moments(features)
    inputs = ((features - mean) / std).cpu().numpy()
    fitted = LogisticRegression(C=c, max_iter=_MAX_ITERATIONS).fit(inputs, labels.cpu().numpy())
    weight, bias = (torch.from_numpy(array).to(features) for array in (fitted.coef_, fitted.intercept_))
    if num_classes == 2:
        # scikit-learn has one row for two classes: the logit of the second
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return _unstandardised(weight, bias, mean, std)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, of features that are finite."""
    # lengths: what overflows in them would be standardised to zero
    check_finite_rows("features", features.norm(dim=1, keepdim=True), "training images")
    return features.mean(0), features.std(0).clamp_min(1e-6)


def _unstandardised(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> LinearHead:
    """The head of features that does what this one does on (features - mean) / std."""
    weight = weight / std
    return LinearHead(weight.contiguous(), bias - weight @ mean)
