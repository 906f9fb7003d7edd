import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor

from mhc_vision.data import ImageFolderDataModule, InMemoryFolderDataModule
from mhc_vision.data.decode import decode_file, decode_rgb
from mhc_vision.data.exif import ORIENTATION, orientation_of

# a different grey in each corner tells all eight orientations apart
CORNERS = np.kron(np.array([[250, 150, 150], [100, 20, 20]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
LOSSLESS = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}


def exif(orientation: int, order: str = "<") -> Image.Exif:
    made = Image.Exif()
    made.endian = order
    made[0x010F] = "a maker"
    made[ORIENTATION] = orientation
    return made


def save(path: Path, orientation: int, order: str = "<") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = LOSSLESS.get(path.suffix[1:], {})
    Image.fromarray(CORNERS).convert("RGB").save(path, exif=exif(orientation, order).tobytes(), **options)
    return str(path)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_photos_are_turned_upright(tmp_path: Path, name: str, orientation: int) -> None:
    path = save(tmp_path / name, orientation)
    expected = pil_to_tensor(ImageOps.exif_transpose(Image.open(path)))
    decoders = [decode_file] if name == "a.tiff" else [decode_file, decode_rgb]
    for decode in decoders:
        image = decode(path, exif_orientation=True)
        # JPEG's rounding
        torch.testing.assert_close(image, expected, atol=4, rtol=0)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_nothing_is_turned_unasked(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, 6)
    assert decode_rgb(path).shape == decode_file(path).shape == (3, 16, 24)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_counts_in_either_byte_order_and_after_other_metadata(tmp_path: Path, order: str) -> None:
    content = Path(save(tmp_path / "a.jpg", 6, order)).read_bytes()
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    assert orientation_of(content) == 6
    assert orientation_of(content[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + content[2:]) == 6
    # bytes that fill the place before a marker
    assert orientation_of(content[:2] + b"\xff\xff" + content[2:]) == 6


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_broken_exif_leaves_the_photo_as_it_is(tmp_path: Path, name: str) -> None:
    content = Path(save(tmp_path / name, 6)).read_bytes()
    start = content.index(b"II*\0")
    for damaged in (b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\0\0", b"nothing here"):
        assert orientation_of(content[:start] + damaged + content[start + len(damaged) :]) == 1
    for length in range(start + 40):
        assert orientation_of(content[:length]) in (1, 6)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"cannot decode .*a\.jpg: empty, truncated"):
        decode_rgb(str(tmp_path / "a.jpg"), exif_orientation=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Upright photos that are stored lying on their sides, each way."""
    for split in ("train", "val"):
        for name in ("one", "two"):
            for orientation in (1, 6, 8):
                turned = pil_to_tensor(Image.fromarray(CORNERS)).rot90({1: 0, 6: 1, 8: -1}[orientation], (1, 2))
                image = Image.fromarray(turned[0].numpy()).convert("RGB")
                path = tmp_path / split / name / f"{orientation}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path, exif=exif(orientation).tobytes())
    return tmp_path


@pytest.mark.parametrize("module", [ImageFolderDataModule, InMemoryFolderDataModule])
@pytest.mark.parametrize("upright", [True, False])
def test_training_and_evaluation_see_the_same_photos(folder: Path, module: type, upright: bool) -> None:
    options = {"img_size": 16, "crop_pct": 1.0, "hflip": 0.0, "exif_orientation": upright}
    if module is ImageFolderDataModule:
        options |= {"num_workers": 0, "train_scale": (1.0, 1.0)}
    data = module(str(folder), batch_size=6, **options)
    ((images, _),) = data.val_dataloader()
    assert bool((images == images[0]).all()) == upright
    ((images, _),) = data.train_dataloader()
    # upright photos have the dark corner at the bottom, whichever part the crop of an oblong one covers
    dark = [image[0, -1].float().mean() < image[0, 0].float().mean() - 50 for image in images]
    assert all(dark) == upright
    assert data.state_dict()["exif_orientation"] is upright


def test_a_run_goes_on_with_the_orientation_it_was_trained_with(folder: Path) -> None:
    data = ImageFolderDataModule(str(folder), exif_orientation=True)
    saved = data.state_dict()
    data.load_state_dict(saved)
    # checkpoints from before it was an option
    del saved["exif_orientation"], saved["options"]["exif_orientation"]
    with pytest.raises(ValueError, match="exif_orientation: got True, expected False as in the checkpoint"):
        data.load_state_dict(saved)
    ImageFolderDataModule(str(folder)).load_state_dict(saved)


def test_other_datasets_say_nothing_of_it() -> None:
    from mhc_vision.data import FakeDataModule

    assert "exif_orientation" not in FakeDataModule().state_dict()


def test_formats_that_only_pillow_reads(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(CORNERS).save(file, "bmp")
    (tmp_path / "a.bmp").write_bytes(file.getvalue())
    assert decode_file(str(tmp_path / "a.bmp"), exif_orientation=True).shape == (3, 16, 24)
