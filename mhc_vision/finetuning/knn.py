"""Weighted k-nearest-neighbour classification of features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mhc_vision.finite import check_finite_rows

_CHUNK = 1024


def knn_probabilities(
    queries: Tensor, features: Tensor, labels: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
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

    Returns:
        (M, num_classes); rows sum to 1.

    Raises:
        ValueError: If there are fewer training samples than neighbours, or features that are not finite.
    """
    if len(features) < k:
        raise ValueError(f"knn_k: got {k}, expected at most {len(features)}, the number of training images")
    # lengths: what overflows in them would be normalised to zero
    check_finite_rows("features", features.norm(dim=1, keepdim=True), "training images")
    check_finite_rows("queries", queries.norm(dim=1, keepdim=True), "images")
    keys = F.normalize(features, dim=1)
    shares = []
    for chunk in F.normalize(queries, dim=1).split(_CHUNK):
        similarities, nearest = (chunk @ keys.t()).topk(k, dim=1)
        votes = torch.zeros(len(chunk), num_classes, device=keys.device)
        shares.append(votes.scatter_add_(1, labels[nearest], (similarities / temperature).softmax(dim=1)))
    return torch.cat(shares)
