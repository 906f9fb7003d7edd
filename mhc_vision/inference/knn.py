"""Weighted k-nearest-neighbour classification of features, of new images or of each by all others."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.finite import check_finite_rows, right_rows

_CHUNK = 1024


def knn_probabilities(
    queries: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    leave_one_out: bool = False,
) -> Tensor:
    """Shares of the votes that the nearest training samples give to each class.

    The k nearest by cosine similarity s vote with weight exp(s / temperature) (Wu et al., arXiv 1805.01978, and DINO,
    arXiv 2104.14294).

    Args:
        queries: (M, C), features of the samples to classify.
        features: (N, C), of the training samples.
        labels: (N,), int64, of these.
        num_classes: Number of classes.
        k: Neighbours that vote.
        temperature: Of the votes.
        leave_one_out: The queries are the features, and none votes on itself.

    Returns:
        (M, num_classes); rows sum to 1.

    Raises:
        ValueError: If there are fewer training samples than neighbours, or features that are not finite.
    """
    num_voters = len(features) - leave_one_out
    if num_voters < k:
        raise ValueError(f"knn_k: got {k}, expected at most {num_voters}, the number of training images")
    # lengths: what overflows in them would be normalised to zero
    check_finite_rows("features", features.norm(dim=1, keepdim=True), "training images")
    check_finite_rows("queries", queries.norm(dim=1, keepdim=True), "images")
    keys = F.normalize(features, dim=1)
    shares: list[Tensor] = []
    for start, chunk in zip(range(0, len(queries), _CHUNK), F.normalize(queries, dim=1).split(_CHUNK), strict=True):
        similarity = chunk @ keys.t()
        if leave_one_out:
            similarity.diagonal(start).fill_(-torch.inf)
        similarities, nearest = similarity.topk(k, dim=1)
        votes = torch.zeros(len(chunk), num_classes, device=keys.device)
        shares.append(votes.scatter_add_(1, labels[nearest], (similarities / temperature).softmax(dim=1)))
    return torch.cat(shares)


def leave_one_out_accuracy(features: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5, 20)) -> dict[int, float]:
    """Share of the images whose class the votes of their nearest neighbours name, as in `knn_probabilities`.

    Args:
        features: (N, C).
        labels: (N,), int64.
        ks: Numbers of neighbours; those that N - 1 falls short of are left out.

    Returns:
        Accuracies in [0, 1], by the number of neighbours.

    Raises:
        ValueError: If features are not finite.
    """
    num_classes = int(labels.max()) + 1
    accuracies = {}
    for k in ks:
        if k < len(features):
            shares = knn_probabilities(features, features, labels, num_classes, k, leave_one_out=True)
            accuracies[k] = right_rows(shares, labels).double().mean().item()
    return accuracies
