"""Images of any size, decoded once and kept."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mhc_vision.data.decode_all import decode_in_threads

_NUM_PROBES = 32


class DecodedImages(Dataset):
    """Keeps what another dataset gives in memory, from `decode` or the first access on.

    Args:
        source: Samples (uint8 (3, H, W), label) of any size; let go when they are decoded.
    """

    def __init__(self, source: Dataset) -> None:
        self.source: Dataset | None = source
        self.samples: list[tuple[Tensor, int]] = []
        self._length = len(source)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A sample."""
        self.decode()
        return self.samples[index]

    @property
    def is_decoded(self) -> bool:
        """Whether the images have their memory already."""
        return self.source is None

    def estimated_bytes(self) -> int:
        """About how much memory the images take, by the mean size of a few of them, evenly spread.

        Raises:
            ValueError: If one of these cannot be decoded.
        """
        if not len(self):
            return 0
        probes = torch.linspace(0, len(self) - 1, min(_NUM_PROBES, len(self))).long().tolist()
        sizes = [(self.source or self)[index][0].nbytes for index in probes]
        return len(self) * sum(sizes) // len(sizes)

    def decode(self, num_processes: int = 1) -> None:
        """Decode all images, unless that is done.

        Args:
            num_processes: Processes that share the cores of this machine and decode at the same time.

        Raises:
            ValueError: If images cannot be decoded; the message counts them and names the first few.
        """
        source = self.source
        if source is None:
            return
        samples: list = [None] * len(self)

        def decode(index: int) -> None:
            samples[index] = source[index]

        decode_in_threads(decode, len(self), num_processes)
        self.samples, self.source = samples, None
