"""Training goes on where single image files are broken, and says which."""

import warnings
from typing import Any

from torch.utils.data import Dataset

MAX_IN_A_ROW = 50


class SkipBroken(Dataset):
    """A map-style dataset in which the next readable sample takes the place of a broken one.

    Each broken file is named in a warning when it is first met, with how many there are so far in this process; each
    data worker counts its own.

    Args:
        dataset: Raises ValueError for a sample that it cannot read.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """A sample.

        Raises:
            ValueError: If this and the 49 samples after it are all broken.
        """
        for tried in range(MAX_IN_A_ROW):
            place = (index + tried) % len(self)
            try:
                return self.dataset[place]
            except ValueError as error:
                last = error
                if place not in self.broken:
                    self.broken.add(place)
                    warnings.warn(f"{error}; left out, {len(self.broken)} so far in this process", stacklevel=2)
        raise ValueError(
            f"data: got {MAX_IN_A_ROW} broken samples in a row from number {index}, expected readable ones"
        ) from last
