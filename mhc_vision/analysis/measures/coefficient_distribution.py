"""How dynamic coefficients are distributed over images, and how much of that the class of an image explains.

After Fig. 12 of HC (arXiv 2409.19606). The unit is an image: each coefficient is averaged over the image's tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_vision.analysis.measures.mean_maps import MAP_DIMS
from mhc_vision.kernels import Coefficients

PERCENTILES = (5, 25, 50, 75, 95)
_NUM_SHOWN = 6


class CoefficientDistribution:
    """Collects the coefficients of images and their labels, batch after batch: L (n² + 2n) numbers an image."""

    def __init__(self) -> None:
        self._coefficients: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._num_streams = 0

    def add(self, maps: Sequence[Coefficients], labels: Tensor) -> None:
        """Take one batch; maps that all tokens share are left out by `result` if no branch has others.

        Args:
            maps: of the L branches, with leading dimensions (B, N) or none.
            labels: (B,).
        """
        self._num_streams = maps[0].pre.shape[-1]
        self._coefficients.append(torch.stack([_image_means(branch, len(labels)) for branch in maps], 1).cpu())
        self._labels.append(labels.cpu())
        self._is_dynamic = any(entry.ndim > 2 for branch in maps for entry in branch)

    def result(self, class_names: Sequence[str]) -> dict[str, Any] | None:
        """None for maps that do not depend on the image.

        Args:
            class_names: in the order of the labels; a label beyond them is its number.

        Returns:
            `entries`: names of the E = n² + 2n coefficients; `std`: their standard deviation over images, (L, E);
            `class_share`: part of the variance that the class explains, (L, E), adjusted for the number of classes
            (ε², about 0 for classes that say nothing), None where nothing varies, there is one class only, or no class
            has a second image;
            `num_images`: of each class that there is; `class_mean`: (L, E) of each class; `shown`: the entries whose
            class means differ most (one of each map at most), with the percentiles `PERCENTILES` over the images of
            each class.
        """
        if not self._is_dynamic:
            return None
        coefficients, labels = torch.cat(self._coefficients), torch.cat(self._labels)
        classes, indices = labels.unique(return_inverse=True)
        means = torch.stack([coefficients[indices == index].mean(0) for index in range(len(classes))])
        within = (coefficients - means[indices]).square().sum(0)
        total = (coefficients - coefficients.mean(0)).square().sum(0)
        share = explained_share(within, total, len(labels), len(classes))
        names = [class_names[label] if label < len(class_names) else str(label) for label in classes.tolist()]
        counts = torch.bincount(indices).tolist()
        shown = []
        for branch, entry in _most_different(share, total / len(labels), self._num_streams):
            values = coefficients[:, branch, entry]
            percentiles = {
                name: torch.quantile(
                    values[indices == index], torch.tensor(PERCENTILES, dtype=values.dtype) / 100
                ).tolist()
                for index, name in enumerate(names)
            }
            shown.append({"branch": branch, "entry": self._entry_names()[entry], "percentiles": percentiles})
        return {
            "entries": self._entry_names(),
            "std": (total / len(labels)).sqrt().tolist(),
            "class_share": [[value if value == value else None for value in row] for row in share.tolist()],
            "num_images": dict(zip(names, counts, strict=True)),
            "class_mean": dict(zip(names, means.tolist(), strict=True)),
            "shown": shown,
        }

    def _entry_names(self) -> list[str]:
        n = range(self._num_streams)
        return [
            *(f"pre {i}" for i in n),
            *(f"post {i}" for i in n),
            *(f"res {i},{j}" for i in n for j in n),
        ]


def explained_share(within: Tensor, total: Tensor, num_images: int, num_classes: int) -> Tensor:
    """Part of a variance that classes explain, adjusted for their number: 1 - (within / (N - K)) / (total / (N - 1)).

    Args:
        within: sum of squared distances from the class means.
        total: from the mean of all.
        num_images: N.
        num_classes: K.

    Returns:
        NaN where nothing varies, beyond rounding of fp32, or where K = 1 or N = K; slightly negative where classes say
        nothing.
    """
    if num_images <= num_classes or num_classes < 2:
        return torch.full_like(total, torch.nan)
    share = 1 - (within / (num_images - num_classes)) / (total / (num_images - 1))
    return torch.where(total / num_images > 1e-12, share, torch.nan)


def _image_means(maps: Coefficients, num_images: int) -> Tensor:
    """The maps of one branch as (B, E), averaged over tokens, fp64."""
    parts = []
    for values, num_dims in zip(maps, MAP_DIMS, strict=True):
        values = values.double()
        if values.ndim == num_dims:
            values = values.expand(num_images, 1, *values.shape)
        parts.append(values.mean(1).flatten(1))
    return torch.cat(parts, 1)


def _most_different(share: Tensor, variance: Tensor, num_streams: int) -> list[tuple[int, int]]:
    """(branch, entry) of the largest standard deviations between classes, largest first, one per map."""
    between = (share.nan_to_num(0).clamp_min(0) * variance).sqrt()
    width = between.shape[1]
    chosen: dict[tuple[int, int], tuple[int, int]] = {}
    for index in between.flatten().argsort(descending=True).tolist():
        branch, entry = divmod(index, width)
        if between[branch, entry] > 0:
            # of one map the entries often move together
            chosen.setdefault((branch, min(2, entry // num_streams)), (branch, entry))
    return list(chosen.values())[:_NUM_SHOWN]
