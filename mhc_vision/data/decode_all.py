"""Many image files to one tensor."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from mhc_vision.data.available_memory import available_memory
from mhc_vision.data.decode import decode_rgb

_NUM_NAMED = 5  # broken files that an error message names


def check_memory(num_images: int, channels: int, img_size: int) -> None:
    """Raise ValueError if the memory cannot hold so many uint8 images (channels, img_size, img_size)."""
    needed, available = num_images * channels * img_size**2, available_memory()
    if needed > available:
        raise ValueError(
            f"img_size: {num_images} images of {channels} x {img_size} x {img_size} need {needed / 2**30:.1f} GiB, "
            f"but only {available / 2**30:.1f} GiB of memory are available: "
            "make img_size smaller, set max_train_images, or read them from files (ImageFolderDataModule)"
        )


def decode_all(paths: Sequence[str], transform: Callable[[Tensor], Tensor], img_size: int) -> Tensor:
    """Decode all files, in as many threads as there are cores and a few more: decoding leaves Python's lock.

    Args:
        paths: The files.
        transform: From uint8 (3, H, W) of any size to (3, img_size, img_size).
        img_size: Height and width of the results.

    Returns:
        (N, 3, img_size, img_size), uint8, in the order of the paths.

    Raises:
        ValueError: If files cannot be decoded; the message counts them and names the first few.
    """
    images = torch.empty(len(paths), 3, img_size, img_size, dtype=torch.uint8)

    def decode(index: int) -> str | None:
        try:
            images[index] = transform(decode_rgb(paths[index]))
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        errors = [error for error in pool.map(decode, range(len(paths))) if error is not None]
    if errors:
        more = f"\nand {len(errors) - _NUM_NAMED} more" if len(errors) > _NUM_NAMED else ""
        shown = "\n".join(errors[:_NUM_NAMED]) + more
        raise ValueError(f"{len(errors)} of {len(paths)} images are broken:\n{shown}")
    return images
