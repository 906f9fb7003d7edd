"""The EXIF orientation of photos: how the camera was held, and pixels turned upright by it."""

import struct

from torch import Tensor

ORIENTATION = 0x0112
"""The tag of EXIF."""

_UPRIGHT = 1
_SHORT = 3
_EXIF = b"Exif\0\0"
_APP1, _START_OF_SCAN = 0xE1, 0xDA
# of the stored image: whether rows and columns change places, and then the dimensions to reverse
_TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}


def orientation_of(content: bytes) -> int:
    """The EXIF orientation of a JPEG, PNG or WebP file, 1 to 8; 1, which is upright, where it says none or nonsense.

    torchvision reads it in JPEG and PNG only, and not after other metadata.

    Args:
        content: Of the file.
    """
    try:
        if content.startswith(b"\xff\xd8"):
            block = _of_jpeg(content)
        elif content.startswith(b"\x89PNG"):
            block = _of_png(content)
        else:
            block = _of_webp(content)
        value = _UPRIGHT if block is None else _tag_value(block.removeprefix(_EXIF))
    except (struct.error, IndexError):
        return _UPRIGHT
    return value if value in _TURNS else _UPRIGHT


def turned_upright(image: Tensor, orientation: int) -> Tensor:
    """An image as it is to be seen.

    Args:
        image: (C, H, W), as stored.
        orientation: Of EXIF; what is none of 1 to 8 counts as 1.

    Returns:
        (C, H, W), or (C, W, H) for orientations of 5 and more.
    """
    swapped, reversed_dims = _TURNS.get(orientation, (False, ()))
    image = image.transpose(1, 2) if swapped else image
    return image.flip(reversed_dims) if reversed_dims else image


def _of_jpeg(content: bytes) -> bytes | None:
    place = 2
    while content[place] == 0xFF:
        # any number of these bytes may come before a marker
        while content[place + 1] == 0xFF:
            place += 1
        marker, length = content[place + 1], struct.unpack_from(">H", content, place + 2)[0]
        segment = content[place + 4 : place + 2 + length]
        if marker == _APP1 and segment.startswith(_EXIF):
            return segment
        if marker == _START_OF_SCAN:
            break
        place += 2 + length
    return None


def _of_png(content: bytes) -> bytes | None:
    place = 8
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"eXIf":
            return content[place + 8 : place + 8 + length]
        place += 12 + length
    return None


def _of_webp(content: bytes) -> bytes | None:
    place = 12
    while place < len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        if kind == b"EXIF":
            return content[place + 8 : place + 8 + length]
        # chunks begin at even places
        place += 8 + length + length % 2
    return None


def _tag_value(block: bytes) -> int:
    """The orientation in the first directory of a TIFF header."""
    order = ">" if block.startswith(b"MM") else "<"
    start = struct.unpack_from(f"{order}I", block, 4)[0]
    count = struct.unpack_from(f"{order}H", block, start)[0]
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, place)
        if (tag, kind) == (ORIENTATION, _SHORT):
            return int(value)
    return _UPRIGHT
