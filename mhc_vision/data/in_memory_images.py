"""Images as one tensor, from which whole batches are gathered."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from mhc_vision.data.seeding import Place

Batch = tuple[Tensor, Tensor]


class InMemoryImages(TensorDataset):
    """Images and labels in the memory of a device, that gives batches instead of samples.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(images, labels)

    @property
    def device(self) -> torch.device:
        """Where images and labels are."""
        return self.tensors[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return self.tensors[0].nbytes

    def check_labels(self, num_classes: int) -> None:
        """Raise ValueError unless each label is that of a class."""
        labels = self.tensors[1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"data: got labels from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}: "
                f"there are names for {num_classes} classes"
            )

    def to(self, device: torch.device) -> None:
        """Move images and labels."""
        self.tensors = tuple(tensor.to(device) for tensor in self.tensors)

    def __getitems__(self, drawn: Sequence[int | tuple[int, Place]]) -> Batch:
        """A batch, images (B, C, H, W) and labels (B,), on the device where the images are.

        Args:
            drawn: Indices, or the training sampler's (index, place) pairs: nothing is random here, which needs no seed.
        """
        indices = torch.tensor([one if isinstance(one, int) else one[0] for one in drawn])
        if self.device.type == "cuda":
            # a copy from pinned memory does not wait for the step that the GPU is busy with
            indices = indices.pin_memory().to(self.device, non_blocking=True)
        images, labels = (tensor[indices] for tensor in self.tensors)
        return images, labels


def collate_batch(batch: Batch) -> Batch:
    """Pass on what `InMemoryImages` has gathered."""
    return batch
