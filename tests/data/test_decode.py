import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mhc_vision.data.decode import decode_any_bytes, decode_file, decode_rgb

ORANGE = (240, 120, 8)


def orange(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (20, 10), ORANGE).convert(mode)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("rgb.jpg", "RGB"),
        ("cmyk.jpg", "CMYK"),
        ("rgb.png", "RGB"),
        ("alpha.png", "RGBA"),
        ("palette.png", "P"),
        ("rgb.webp", "RGB"),
    ],
)
def test_colours_survive(tmp_path: Path, name: str, mode: str) -> None:
    orange(mode).save(tmp_path / name)
    image = decode_rgb(str(tmp_path / name))
    assert (image.dtype, image.shape) == (torch.uint8, (3, 10, 20))
    # lossy compression and the web palette's nearest colour
    torch.testing.assert_close(image.float().mean((1, 2)), torch.tensor(ORANGE).float(), atol=50, rtol=0)


@pytest.mark.parametrize("name", ["grey.jpg", "grey.png"])
def test_grey_fills_all_channels(tmp_path: Path, name: str) -> None:
    orange("L").save(tmp_path / name)
    image = decode_rgb(str(tmp_path / name))
    assert image.shape == (3, 10, 20)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = decode_rgb(str(tmp_path / "deep.png"))
    assert image.dtype == torch.uint8
    assert image[0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_16_bits_that_pillow_reads_are_scaled_too(byte_order: str) -> None:
    values = np.array([[0, 128 * 257, 65535]], dtype=f"{byte_order}u2")
    file = io.BytesIO()
    Image.frombytes("I;16" if byte_order == "<" else "I;16B", (3, 1), values.tobytes()).save(file, "tiff")
    image = decode_any_bytes(file.getvalue(), "deep.tiff")
    assert image.dtype == torch.uint8
    assert image.tolist() == [[[0, 128, 255]]] * 3


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def deep_tiff(values: list[int], bits: int, signed: bool = False) -> bytes:
    """A TIFF of one row, as Pillow does not write it: uncompressed, of any number of bits."""
    kind = {12: "<u2", 16: "<i2" if signed else "<u2", 32: "<i4" if signed else "<u4"}[bits]
    data = np.array(values, dtype=kind).tobytes()
    if bits == 12:
        a, b = values
        data = bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    entries = [
        *((256, 4, len(values)), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8 + 2 + 12 * 9 + 4)),
        *((278, 4, 1), (279, 4, len(data)), (339, 3, 2 if signed else 1)),
    ]
    fields = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + fields + struct.pack("<I", 0) + data


HALVES = [0, 128 * 257, 65535]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("grey.png", saved(Image.fromarray(np.array([HALVES], np.uint16)), "png"), [0, 128, 255]),
        ("grey.pgm", b"P5 3 1 65535 " + np.array(HALVES, ">u2").tobytes(), [0, 128, 255]),
        ("ascii.pgm", b"P2 3 1 65535 0 32896 65535", [0, 128, 255]),
        ("16.tiff", deep_tiff(HALVES, 16), [0, 128, 255]),
        ("signed.tiff", deep_tiff([0, 16448, 32767], 16, signed=True), [0, 128, 255]),
        ("12.tiff", deep_tiff([2056, 4095], 12), [128, 255]),
        ("32.tiff", deep_tiff([0, 128 << 24, 2**32 - 1], 32), [0, 128, 255]),
        ("signed32.tiff", deep_tiff([0, 64 << 24, 2**31 - 1], 32, signed=True), [0, 128, 255]),
    ],
)
def test_deep_grey_is_scaled_by_its_depth(tmp_path: Path, name: str, content: bytes, expected: list[int]) -> None:
    (tmp_path / name).write_bytes(content)
    image = decode_file(str(tmp_path / name))
    assert image.dtype == torch.uint8
    assert image.tolist() == [[expected]] * 3


def test_grey_without_a_white_is_refused_in_words(tmp_path: Path) -> None:
    floats = saved(Image.fromarray(np.array([[0.0, 0.5]], np.float32)), "tiff")
    with pytest.raises(ValueError, match=r"cannot use heights.tiff: got floating-point pixels, .* 8 or 16"):
        decode_any_bytes(floats, "heights.tiff")
    negative = deep_tiff([-1, 7], 16, signed=True)
    with pytest.raises(ValueError, match=r"cannot use depth.tiff: got grey values from -1 to 7, expected 0 to 32767"):
        decode_any_bytes(negative, "depth.tiff")


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_all_other_modes_have_their_colours(mode: str, form: str) -> None:
    image = Image.new("RGB", (4, 4), (255, 255, 255)).convert("P" if mode == "PA" else mode)
    if mode == "P":
        image.info["transparency"] = 0
    if mode == "PA":
        image = image.convert("PA")
    try:
        content = saved(image, form)
    except (OSError, KeyError):
        pytest.skip(f"Pillow writes no {mode} as {form}")
    assert decode_any_bytes(content, mode).tolist() == torch.full((3, 4, 4), 255).tolist()


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees
    orange().save(tmp_path / "rotated.jpg", exif=exif)
    assert decode_rgb(str(tmp_path / "rotated.jpg")).shape == (3, 10, 20)


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    orange().save(tmp_path / "really_png.jpg", format="png")
    assert decode_rgb(str(tmp_path / "really_png.jpg")).shape == (3, 10, 20)


def test_truncated_images_are_named(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    for name in ("whole.jpg", "whole.png"):
        noise.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        broken = tmp_path / f"broken_{name}"
        broken.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"cannot decode {broken}"):
            decode_rgb(str(broken))


@pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "missing"])
def test_files_that_are_no_images_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot decode {path}"):
        decode_rgb(str(path))


def test_an_animation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "animated.png"
    orange().save(path, format="gif", save_all=True, append_images=[orange("L")])
    with pytest.raises(ValueError, match=f"cannot use {path}.* 2 frames"):
        decode_rgb(str(path))


def test_formats_that_only_pillow_reads_are_named_when_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    bitmap = io.BytesIO()
    orange().save(bitmap, "bmp")
    assert decode_any_bytes(bitmap.getvalue(), "sample 7").shape == (3, 10, 20)
    for broken in (bitmap.getvalue()[:60], b"P3 2 2 255 1 2 x 4", b"P3 2 z 255"):
        with pytest.raises(ValueError, match="cannot decode sample 7: truncated, too large or not an image"):
            decode_any_bytes(broken, "sample 7")
    # Pillow refuses twice as many pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(ValueError, match=r"cannot decode sample 7: .*200 pixels"):
        decode_any_bytes(bitmap.getvalue(), "sample 7")
