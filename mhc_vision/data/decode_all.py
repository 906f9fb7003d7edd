"""Many image files to one tensor."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from mhc_vision.data.available_cores import available_cores
from mhc_vision.data.available_memory import available_memory
from mhc_vision.data.decode import decode_rgb
from mhc_vision.data.naming import first_few


def check_memory(num_images: int, channels: int, img_size: int, num_copies: int = 1) -> None:
    """Check that the memory can hold so many uint8 images (channels, img_size, img_size).

    Args:
        num_images: Images in each copy.
        channels: Of an image.
        img_size: Height and width of an image.
        num_copies: Processes on this machine, each of which holds all images.

    Raises:
        ValueError: If it cannot.
    """
    require_memory(
        num_images * channels * img_size**2,
        num_copies,
        what=f"img_size: {num_images} images of {channels} x {img_size} x {img_size}",
        advice="make img_size smaller, set max_train_images, or read them from files (ImageFolderDataModule)",
    )


def require_memory(num_bytes: int, num_copies: int, what: str, advice: str) -> None:
    """Check that the memory can hold so many bytes.

    Args:
        num_bytes: Of each copy.
        num_copies: Processes on this machine, each of which holds a copy.
        what: The beginning of the error, which says what the bytes are.
        advice: Its end.

    Raises:
        ValueError: If it cannot.
    """
    needed, available = num_copies * num_bytes, available_memory()
    if needed > available:
        times = f" in each of {num_copies} processes" if num_copies > 1 else ""
        raise ValueError(
            f"{what}{times} need {needed / 2**30:.1f} GiB, but only {available / 2**30:.1f} GiB of memory are "
            f"available: {advice}"
        )


def decode_all(
    paths: Sequence[str], transform: Callable[[Tensor], Tensor], img_size: int, num_processes: int = 1
) -> Tensor:
    """Decode all files, in threads, as decoding leaves Python's lock.

    Args:
        paths: The files.
        transform: From uint8 (3, H, W) of any size to (3, img_size, img_size).
        img_size: Height and width of the results.
        num_processes: Processes that share the cores of this machine and decode at the same time.

    Returns:
        (N, 3, img_size, img_size), uint8, in the order of the paths.

    Raises:
        ValueError: If files cannot be decoded; the message counts them and names the first few.
    """
    # threads write to it, which do not share the inference mode that this one may be in
    with torch.inference_mode(False):
        images = torch.empty(len(paths), 3, img_size, img_size, dtype=torch.uint8)

    def decode(index: int) -> None:
        images[index] = transform(decode_rgb(paths[index]))

    decode_in_threads(decode, len(paths), num_processes)
    return images


def decode_in_threads(decode: Callable[[int], None], num_images: int, num_processes: int = 1) -> None:
    """Call `decode` for each index, in as many threads as this process has cores for itself.

    Args:
        decode: Decodes the image of an index and keeps it, or raises ValueError.
        num_images: How many there are.
        num_processes: Processes that share the cores of this machine and decode at the same time.

    Raises:
        ValueError: If images cannot be decoded; the message counts them and names the first few.
    """

    def attempt(index: int) -> str | None:
        try:
            decode(index)
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(1, available_cores() // num_processes)) as pool:
        errors = [error for error in pool.map(attempt, range(num_images)) if error is not None]
    if errors:
        raise ValueError(f"{len(errors)} of {num_images} images are broken:\n{first_few(errors, in_lines=True)}")
