"""Image files to RGB tensors, one by one or many in threads."""

import io
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

from mhc_vision.checks import first_few
from mhc_vision.data.exif import ORIENTATION, orientation_of, turned_upright
from mhc_vision.data.machine import available_cores

DECODABLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

PILLOW_ERRORS = (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for images that are broken, or so large that they may be an attack."""

# of TIFF
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339
_SIGNED = 2

_ANY_TROUBLE = "empty, truncated or not a JPEG, PNG or WebP image"


class PixelError(ValueError):
    """An image can be read, but its pixels say no colours."""


def decode_rgb(path: str, exif_orientation: bool = False) -> Tensor:
    """Read a JPEG, PNG or WebP file, told apart by content.

    Grey and CMYK become RGB, an alpha channel is dropped, 16 bits are scaled to 8.

    Args:
        path: The file.
        exif_orientation: Turn photos upright. It is not done anywhere on ImageNet: published accuracies are measured
            without.

    Returns:
        (3, H, W), uint8.

    Raises:
        ValueError: If the file cannot be read or decoded; the message names it.
    """
    _check_regular(path, "decode")
    if not exif_orientation:
        return _decode(path, path)
    content = read_image_file(path)
    # torch makes no tensor of nothing
    image = _decode(_as_tensor(content) if content else path, path)
    return turned_upright(image, orientation_of(content))


def read_image_file(path: str) -> bytes:
    """What is in a file.

    Raises:
        ValueError: If it cannot be read; the message names it, and says why.
    """
    _check_regular(path, "read")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def open_unconverted(path: str) -> Image.Image:
    """A file as Pillow opens it, in its own mode: for `pil_to_rgb`.

    Raises:
        ValueError: If it cannot be read.
        UnidentifiedImageError: If it is no image.
    """
    return Image.open(io.BytesIO(read_image_file(path)))


def decode_file(path: str, exif_orientation: bool = False) -> Tensor:
    """Read an image of any format that Pillow knows; JPEG, PNG and WebP are decoded as everywhere in this package.

    Args:
        path: The file, of whatever kind.
        exif_orientation: Turn photos upright.

    Returns:
        (3, H, W), uint8.

    Raises:
        ValueError: If the file cannot be read or decoded; the message names it, and says why.
    """
    return decode_any_bytes(read_image_file(path), path, exif_orientation)


def decode_any_bytes(content: bytes, name: str, exif_orientation: bool = False) -> Tensor:
    """What `decode_rgb` gives for a file with this content, and the same for every other format that Pillow reads.

    Args:
        content: Of an image file.
        name: What an error calls the image.
        exif_orientation: Turn photos upright; Pillow does so with TIFF always.

    Returns:
        (3, H, W), uint8.

    Raises:
        ValueError: If it cannot be decoded; the message has its name.
    """
    if not content:
        raise ValueError(f"cannot decode {name}: got an empty file, expected an image")
    if _is_decodable(content):
        decoded = _decode(_as_tensor(content), name, "truncated or damaged")
        return turned_upright(decoded, orientation_of(content)) if exif_orientation else decoded
    try:
        with Image.open(io.BytesIO(content)) as image:
            decoded = pil_to_rgb(image)
            # asked afterwards, when that of a TIFF has been applied
            return turned_upright(decoded, image.getexif().get(ORIENTATION, 1)) if exif_orientation else decoded
    except UnidentifiedImageError as error:
        # its text has the address of a buffer
        raise ValueError(f"cannot decode {name}: got no image or an unknown format, expected an image") from error
    except PixelError as error:
        raise ValueError(f"cannot use {name}: {error}") from error
    except PILLOW_ERRORS as error:
        raise ValueError(f"cannot decode {name}: truncated, too large or not an image: {error}") from error


def pil_to_rgb(image: Image.Image) -> Tensor:
    """A Pillow image of any mode as (3, H, W), uint8; grey of 12, 16 or 32 bits is scaled to 8.

    Raises:
        PixelError: If its pixels are floating-point numbers, whose white is not known, or beyond their depth.
    """
    if image.mode == "F":
        raise PixelError("got floating-point pixels, expected integers; convert it to 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _deep_grey(image).repeat(3, 1, 1)
    return pil_to_tensor(image.convert("RGB"))


def decode_all(
    paths: Sequence[str],
    transform: Callable[[Tensor], Tensor],
    img_size: int,
    num_processes: int = 1,
    exif_orientation: bool = False,
) -> Tensor:
    """Decode all files, in threads, as decoding leaves Python's lock.

    Args:
        paths: The files.
        transform: From uint8 (3, H, W) of any size to (3, img_size, img_size).
        img_size: Height and width of the results.
        num_processes: Processes that share the cores of this machine and decode at the same time.
        exif_orientation: Turn photos upright.

    Returns:
        (N, 3, img_size, img_size), uint8, in the order of the paths.

    Raises:
        ValueError: If files cannot be decoded; the message counts them and names the first few.
    """
    # threads write to it, which do not share the inference mode that this one may be in
    with torch.inference_mode(False):
        images = torch.empty(len(paths), 3, img_size, img_size, dtype=torch.uint8)

    def decode(index: int) -> None:
        images[index] = transform(decode_rgb(paths[index], exif_orientation))

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


def _deep_grey(image: Image.Image) -> Tensor:
    """(1, H, W), uint8, the high bits of each value, as `decode_rgb` takes them; Pillow would make all but black white.

    Pillow has no depth: the tags of a TIFF say it, all other formats have 16 bits at most.
    """
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    values = pil_to_tensor(image.convert("I")).long()
    if bits == 32 and not signed:
        values &= 2**32 - 1
    depth = bits - signed
    if values.min() < 0 or values.max() >= 2**depth:
        raise PixelError(f"got grey values from {values.min()} to {values.max()}, expected 0 to {2**depth - 1}")
    return (values >> (depth - 8)).to(torch.uint8)


def _check_regular(path: str, verb: str) -> None:
    # a pipe would keep its reader waiting
    if not os.path.isfile(path):
        raise ValueError(f"cannot {verb} {path}: {'no regular file' if os.path.exists(path) else 'missing'}")


def _as_tensor(content: bytes) -> Tensor:
    # a copy: torch warns of buffers that it must not write to
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _decode(source: str | Tensor, name: str, trouble: str = _ANY_TROUBLE) -> Tensor:
    try:
        image = decode_image(source, mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise ValueError(f"cannot decode {name}: {trouble}") from error
    if image.ndim != 3:
        raise ValueError(f"cannot use {name}: got an animation of {len(image)} frames, expected a single image")
    return to_dtype(image, torch.uint8, scale=True)


def _is_decodable(content: bytes) -> bool:
    """Whether the first bytes are those of a JPEG, PNG or WebP file."""
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return webp or content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n"))
