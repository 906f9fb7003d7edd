"""Image files to RGB tensors."""

import io
import struct

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

DECODABLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

PILLOW_ERRORS = (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for images that are broken, or so large that they may be an attack."""

_ANY_TROUBLE = "missing, empty, truncated or not a JPEG, PNG or WebP image"


def decode_rgb(path: str) -> Tensor:
    """Read a JPEG, PNG or WebP file, told apart by content.

    Grey and CMYK become RGB, an alpha channel is dropped, 16 bits are scaled to 8. The EXIF orientation is not
    applied, as everywhere on ImageNet: published accuracies are measured that way.

    Args:
        path: The file.

    Returns:
        (3, H, W), uint8.

    Raises:
        ValueError: If the file cannot be read or decoded; the message names it.
    """
    return _decode(path, path)


def decode_any_bytes(content: bytes, name: str) -> Tensor:
    """What `decode_rgb` gives for a file with this content, and the same for every other format that Pillow reads.

    Args:
        content: Of an image file.
        name: What an error calls the image.

    Returns:
        (3, H, W), uint8.

    Raises:
        ValueError: If it cannot be decoded; the message has its name.
    """
    if not content:
        raise ValueError(f"cannot decode {name}: empty")
    if _is_decodable(content):
        # a copy: torch warns of buffers that it must not write to
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return _decode(encoded, name, "truncated or damaged")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return pil_to_rgb(image)
    except UnidentifiedImageError as error:
        # its text has the address of a buffer
        raise ValueError(f"cannot decode {name}: not an image, or of an unknown format") from error
    except PILLOW_ERRORS as error:
        raise ValueError(f"cannot decode {name}: truncated, too large or not an image: {error}") from error


def pil_to_rgb(image: Image.Image) -> Tensor:
    """A Pillow image of any mode as (3, H, W), uint8; 16 bits are scaled to 8."""
    if image.mode.startswith("I;16"):
        # Pillow would make every value above 255 white
        grey = pil_to_tensor(image.convert("I")).to(torch.uint16)
        return to_dtype(grey, torch.uint8, scale=True).repeat(3, 1, 1)
    return pil_to_tensor(image.convert("RGB"))


def _decode(source: str | Tensor, name: str, trouble: str = _ANY_TROUBLE) -> Tensor:
    try:
        image = decode_image(source, mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise ValueError(f"cannot decode {name}: {trouble}") from error
    if image.ndim != 3:
        raise ValueError(f"cannot use {name}: expected a single image, got an animation of {len(image)} frames")
    return to_dtype(image, torch.uint8, scale=True)


def _is_decodable(content: bytes) -> bool:
    """Whether the first bytes are those of a JPEG, PNG or WebP file."""
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return webp or content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n"))
