"""How similar the inputs of adjacent branches are (HC, arXiv 2409.19606, Fig. 3): near 1, a branch adds little."""

import torch.nn.functional as F
from torch import Tensor

from mhc_vision.analysis.measures.token_statistics import TokenQuantiles


class BranchSimilarity:
    """Collects the cosine between what each branch and the one before it read, token by token.

    Branches are to be added in order, from 0 in every batch.
    """

    def __init__(self) -> None:
        self._previous: Tensor | None = None
        self._cosines: dict[int, TokenQuantiles] = {}

    def add(self, branch: int, tokens: Tensor) -> None:
        """Take the input of one branch for one batch, (..., C), as read from the streams, before any norm."""
        tokens = tokens.double()
        if branch > 0 and self._previous is not None:
            cosines = F.cosine_similarity(self._previous, tokens, dim=-1)
            self._cosines.setdefault(branch, TokenQuantiles()).add(cosines)
        self._previous = tokens

    def result(self) -> list[dict[str, float]]:
        """For each branch from 1 on, `median`, `p5` and `p95` over tokens of the cosine with the branch before it."""
        return [
            {"branch": branch, **{key: figures[key] for key in ("median", "p5", "p95")}}
            for branch, cosines in self._cosines.items()
            for figures in [cosines.result()]
        ]
