from pathlib import Path

import numpy as np
import pytest
import torch
from masked_copies import halves, photo, save_mask
from PIL import Image
from scipy.io import savemat

from mhc_vision.data.segmentation.masks import MaskedImages, class_values
from mhc_vision.segmentation_scores import IGNORED

VALUES = class_values(("a", "b", "c"))


def test_grey_palette_and_16_bit_masks_say_the_same(tmp_path: Path) -> None:
    mask = halves(0, 2)
    mask[0] = IGNORED
    save_mask(tmp_path / "grey.png", mask)
    save_mask(tmp_path / "palette.png", mask, palette=True)
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "wide.png")
    found = [VALUES.decode(str(tmp_path / f"{name}.png")) for name in ("grey", "palette", "wide")]
    assert torch.equal(found[0], torch.from_numpy(mask.astype(np.int64)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_two_values_of_one_bit(tmp_path: Path) -> None:
    Image.fromarray(halves(0, 255) > 0).save(tmp_path / "bits.png")
    assert VALUES.decode(str(tmp_path / "bits.png")).unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (halves(0, 3), "has pixels of 3, expected the numbers of classes, 0, 1, 2"),
        (halves(IGNORED, IGNORED), "has no pixel of a class"),
        (halves(0, 2).astype(np.uint16) * 300, "has pixels of 600"),
        (np.stack([halves(0, 2)] * 3, axis=-1), "is a picture of mode RGB"),
        (np.stack([halves(0, 2)] * 4, axis=-1), "is a picture of mode RGBA"),
    ],
)
def test_masks_that_mean_nothing_are_refused(mask: np.ndarray, message: str, tmp_path: Path) -> None:
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=f"mask: .*mask.png {message}"):
        VALUES.decode(str(tmp_path / "mask.png"))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_masks_are_named(content: bytes, tmp_path: Path) -> None:
    for suffix in ("png", "mat"):
        path = tmp_path / f"mask.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"mask.{suffix}"):
            VALUES.decode(str(path))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4), -1, dtype=np.int16), "has pixels of -1"),
        (np.full((4, 4), 2**63, dtype=np.uint64), "has pixels of"),
        (np.full((4, 4), 0.5), "is an array of float64, 4 x 4"),
        (np.zeros((4, 4, 3), dtype=np.uint8), "is an array of uint8, 4 x 4 x 3"),
        (np.zeros((0, 0), dtype=np.uint8), "has no pixel of a class"),
        (np.array(["text"]), "is an array of"),
        (None, "cannot read"),
    ],
)
def test_arrays_that_are_no_masks_are_named(array: np.ndarray | None, message: str, tmp_path: Path) -> None:
    entry = np.zeros((1,), dtype=[("Segmentation", object)])
    entry["Segmentation"][0] = array
    savemat(tmp_path / "mask.mat", {"GTcls": np.zeros((2, 2)) if array is None else entry})
    with pytest.raises(ValueError, match=f"mask.mat:? {message}|{message} .*mask.mat"):
        VALUES.decode(str(tmp_path / "mask.mat"))


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    save_mask(tmp_path / "whole.png", halves(0, 1))
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "mask.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"mask: cannot read .*mask.png: image file is truncated"):
        VALUES.decode(str(tmp_path / "mask.png"))


def test_an_image_that_would_fill_the_memory_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "image.png", size=(2, 70))
    save_mask(tmp_path / "mask.png", halves(0, 1, (2, 70)))
    samples = MaskedImages([str(tmp_path / "image.png")], [str(tmp_path / "mask.png")], VALUES, None)
    with pytest.raises(ValueError, match=r"image: .*image.png has 2 x 70 pixels, expected a longer side"):
        samples[0]


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "image.png")
    save_mask(tmp_path / "mask.png", halves(0, 1, (20, 30)))
    samples = MaskedImages([str(tmp_path / "image.png")], [str(tmp_path / "mask.png")], VALUES, None)
    with pytest.raises(ValueError, match=r"mask: .*mask.png has 20 x 30 pixels, expected 40 x 56"):
        samples[0]
