import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mhc_vision.data.decode import decode_any_bytes, decode_rgb

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
