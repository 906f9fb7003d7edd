import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from mhc_vision.data.decode import decode_file
from mhc_vision.inference.input_files import list_files


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_folders_are_read_at_any_depth_in_order_without_what_is_hidden(tmp_path):
    folder = tmp_path / "folder"
    expected = [touch(folder / name) for name in ("a/1.png", "a/b/c/2.jpg", "a/notes.txt", "z.png")]
    for hidden in (".DS_Store", "a/.2.png.swp", ".git/config", "a/.thumbnails/1.png"):
        touch(folder / hidden)
    other = touch(tmp_path / "other.png")
    assert list_files([folder]) == expected
    # what is named comes where it is named, be it hidden
    named = folder / ".DS_Store"
    assert list_files([Path(other), named, folder]) == [other, str(named), *expected]


def test_links_are_followed_once(tmp_path):
    shared = touch(tmp_path / "shared" / "1.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).symlink_to(tmp_path / "shared")
    (folder / "file.png").symlink_to(shared)
    (folder / "up").symlink_to(folder)
    assert list_files([folder]) == [str(folder / "a" / "1.png"), str(folder / "file.png")]


def test_paths_without_files_are_named(tmp_path):
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"images: got no files in .*empty, expected some that are not hidden"):
        list_files([tmp_path / "empty"])
    with pytest.raises(ValueError, match=r"images: got .*missing.png, expected files or folders that are there"):
        list_files([tmp_path, tmp_path / "missing.png"])


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_every_format_of_pillow_is_read(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (20, 10), (240, 120, 8)).save(path)
    image = decode_file(str(path))
    assert (image.dtype, image.shape) == (torch.uint8, (3, 10, 20))
    # lossy compression
    torch.testing.assert_close(image.float().mean((1, 2)), torch.tensor([240.0, 120.0, 8.0]), atol=5, rtol=0)


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.new("RGB", (40, 40)).save(whole)
    contents = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"no image at all", "expected an image"),
        "truncated.jpg": (whole.read_bytes()[:-40], "truncated"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot decode {tmp_path / name}: .*{reason}"):
            decode_file(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"cannot read .*missing.jpg: missing"):
        decode_file(str(tmp_path / "missing.jpg"))
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"cannot read .*pipe.jpg: no regular file"):
        decode_file(str(tmp_path / "pipe.jpg"))
