import json
import pickle
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mhc_vision.data import ImageFolderDataModule, PackedDataModule
from mhc_vision.data import pack as packing
from mhc_vision.data.packed_chunks import ChunkReader
from mhc_vision.data.packed_remote import RemoteFolder
from mhc_vision.data.skip_broken import StorageError

litdata = pytest.importorskip("litdata")
OPTIONS: dict[str, Any] = {"batch_size": 5, "num_workers": 0, "img_size": 32, "seed": 3}


@pytest.fixture
def packed(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In chunks of a few images."""
    monkeypatch.setattr(packing, "CHUNK_BYTES", 20_000)
    packing.pack_folder(image_folder, image_folder.parent / "packed")
    assert len(list((image_folder.parent / "packed" / "train").glob("*.bin"))) > 3
    return image_folder.parent / "packed"


def batches_of(data: Any, position: tuple[int, int] = (0, 0)) -> list[list[torch.Tensor]]:
    data._position = lambda: position
    return [*data.train_dataloader(), *data.val_dataloader()]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("position", [(0, 0), (2, 10)])
@pytest.mark.parametrize("local", [True, False], ids=["disk", "url"])
def test_batches_are_those_of_the_folder(
    packed: Path, image_folder: Path, num_workers: int, position: tuple[int, int], local: bool
) -> None:
    options = {**OPTIONS, "num_workers": num_workers}
    expected = batches_of(ImageFolderDataModule(str(image_folder), **OPTIONS), position)
    root = str(packed) if local else f"local:{packed}"
    data = PackedDataModule(root, str(packed.parent / "cache"), **options)
    assert data.class_names == ["blue", "green", "red"]
    for (images, labels), (same_images, same_labels) in zip(batches_of(data, position), expected, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_processes_share_the_images(packed: Path, image_folder: Path) -> None:
    seen = []
    for rank in range(2):
        data = PackedDataModule(str(packed), **OPTIONS)
        data.trainer = SimpleNamespace(training=False, global_rank=rank, world_size=2)
        seen += [image.numpy().tobytes() for images, _ in data.val_dataloader() for image in images]
    assert len(set(seen)) == len(seen) == 9


def test_reading_survives_pickling(packed: Path) -> None:
    data = PackedDataModule(str(packed), **OPTIONS)
    first = data.eval_set[4]
    copy = pickle.loads(pickle.dumps(data.eval_set))
    assert torch.equal(copy[4][0], first[0])


def test_litdata_reads_the_chunks_too(packed: Path, image_folder: Path) -> None:
    stream = litdata.StreamingDataset(str(packed / "train"))
    reader = ChunkReader(packed / "train")
    assert len(reader) == 24
    for index, (name, content, label) in enumerate(stream):
        assert reader.read(index) == (bytes(name).decode(), bytes(content), label)
        assert (image_folder / bytes(name).decode()).read_bytes() == bytes(content)


def test_files_of_a_url_are_downloaded_when_they_are_needed(packed: Path, tmp_path: Path) -> None:
    data = PackedDataModule(f"local:{packed}", str(tmp_path / "cache"), **OPTIONS)
    assert not list((tmp_path / "cache").rglob("*.bin"))
    expected = data.train_set[7][1]
    assert len(list((tmp_path / "cache").rglob("*.bin"))) == 1
    # what is there needs the URL no more
    shutil.rmtree(packed)
    assert data.train_set[7][1] == expected


def test_a_cache_without_the_space_is_refused(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"cache: local:.* needs .* GiB more"):
        PackedDataModule(f"local:{packed}", str(tmp_path / "cache"), **OPTIONS)


def test_broken_images_are_named_or_skipped(image_folder: Path) -> None:
    broken = image_folder / "train" / "green" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    packing.pack_folder(image_folder, image_folder.parent / "packed")
    root = str(image_folder.parent / "packed")
    with pytest.raises(ValueError, match=r"cannot decode train/green/2\.jpg"):
        list(PackedDataModule(root, **OPTIONS).train_dataloader())
    with pytest.warns(UserWarning, match=r"train/green/2\.jpg.*: left out"):
        assert len(list(PackedDataModule(root, broken="skip", **OPTIONS).train_dataloader())) == 4


def test_packing_without_litdata_names_the_extra(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ImportError, match=r"mhc_vision\[litdata\]"):
        packing.pack_folder(image_folder, image_folder.parent / "packed")


def test_a_url_without_litdata_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litdata.streaming.downloader", None)
    with pytest.raises(ImportError, match=r"mhc_vision\[litdata\]"):
        PackedDataModule("s3://bucket/data", **OPTIONS)


def test_a_folder_that_is_not_packed(image_folder: Path) -> None:
    with pytest.raises(ValueError, match=f"root: {image_folder} is no dataset that `mhc-vision pack` wrote"):
        PackedDataModule(str(image_folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "does not have class_names, and num_images of train and val"),
        (b'{"class_names": ["a"], "num_images": {"train": 1}}', "does not have class_names, and num_images of"),
        (b'{"class_names": 3, "num_images": {"train": 1, "val": 1}}', "does not have class_names, and num_images of"),
        (b'{"class_names": ["a"], "num_images": 3}', "does not have class_names, and num_images of"),
        (b"\xff\xfe", "is no dataset that `mhc-vision pack` wrote"),
    ],
)
def test_a_description_that_says_something_else(packed: Path, content: bytes, message: str) -> None:
    (packed / "packed.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"root: {packed}.*{message}"):
        PackedDataModule(str(packed), **OPTIONS)


def test_an_incomplete_copy_is_found(packed: Path) -> None:
    chunk = packed / "val" / "chunk-0-0.bin"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{chunk} is too short"):
        list(PackedDataModule(str(packed), **OPTIONS).val_dataloader())
    chunk.unlink()
    with pytest.raises(ValueError, match=rf"{chunk} cannot be opened"):
        list(PackedDataModule(str(packed), **OPTIONS).val_dataloader())
    description = json.loads((packed / "packed.json").read_text())
    description["num_images"]["val"] = 8
    (packed / "packed.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"val has 9 images, but packed\.json says 8"):
        PackedDataModule(str(packed), **OPTIONS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is too short for the table"),
        (b"\x01\x00\x00", "is too short for the table"),
        (bytes(400), "does not have the table"),
    ],
    ids=["empty", "short", "zeros"],
)
@pytest.mark.parametrize("broken", ["raise", "skip"])
def test_a_chunk_without_its_table_is_named_and_not_skipped(
    packed: Path, content: bytes, message: str, broken: str
) -> None:
    chunk = packed / "train" / "chunk-0-0.bin"
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match=f"{chunk} {message}"):
        list(PackedDataModule(str(packed), broken=broken, **OPTIONS).train_dataloader())


def test_a_table_that_runs_backwards_and_broken_headers_are_named(packed: Path) -> None:
    chunk = packed / "train" / "chunk-0-0.bin"
    whole = bytearray(chunk.read_bytes())
    num_samples, first, second = struct.unpack_from("<3I", whole)
    assert num_samples > 1
    # sizes that do not add up, and a label that has none of them
    for header in ((0, 0, 0), (2**31, 5, 8), (second - first - 12, 0, 0)):
        chunk.write_bytes(whole[:first] + struct.pack("<3I", *header) + whole[first + 12 :])
        with pytest.raises(ValueError, match=f"{chunk} has a broken header before sample 0"):
            ChunkReader(packed / "train").read(0)
    # samples of 0 and 4 bytes have no room for a header
    for end in (first, first + 4):
        chunk.write_bytes(whole[:8] + struct.pack("<I", end) + whole[12:])
        with pytest.raises(ValueError, match=f"{chunk} has a broken header before sample 0"):
            ChunkReader(packed / "train").read(0)
    chunk.write_bytes(whole[:8] + struct.pack("<I", first - 1) + whole[12:])
    with pytest.raises(ValueError, match=f"{chunk} does not have the table"):
        ChunkReader(packed / "train").read(0)


@pytest.mark.parametrize("content", ["[]", "{}", '{"config": {"data_format": 1}}', "no json"])
def test_an_index_that_is_none_is_named(packed: Path, content: str) -> None:
    (packed / "train" / "index.json").write_text(content)
    with pytest.raises(ValueError, match=rf"{packed}/train/index\.json is missing or no index of litdata"):
        ChunkReader(packed / "train")


def test_what_cannot_be_fetched_is_named_and_not_skipped(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, cache = f"local:{packed}", str(tmp_path / "cache")
    data = PackedDataModule(url, cache, broken="skip", **OPTIONS)
    (packed / "train" / "chunk-0-0.bin").unlink()
    with pytest.raises(ValueError, match=rf"root: {url}/train/chunk-0-0\.bin cannot be fetched: .*doesn't exist"):
        list(data.train_dataloader())
    with pytest.raises(ValueError, match=rf"root: {url}/nothing/packed\.json cannot be fetched"):
        PackedDataModule(f"{url}/nothing", cache, **OPTIONS)

    def without_package(*_: Any) -> None:
        raise ModuleNotFoundError("boto3")

    # a package that is missing stays what it is
    monkeypatch.setattr("litdata.streaming.downloader.get_downloader", without_package)
    with pytest.raises(ImportError, match="boto3"):
        PackedDataModule(f"{url}/nothing", cache, **OPTIONS)


class Downloader:
    """One of litdata's that does not download beside the place of the file."""

    def __init__(self, source: Path, error: BaseException | None = None, writes: bool = True) -> None:
        self.source, self.error, self.writes = source, error, writes

    def download_file(self, remote: str, local: str) -> None:
        content = (self.source / Path(remote).name).read_bytes()
        if self.writes:
            Path(local).write_bytes(content[:10] if self.error else content)
        if self.error:
            raise self.error


def test_a_download_that_was_cut_off_leaves_no_half_file(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteFolder("s3://bucket/data", tmp_path / "cache")
    for options, error in (
        ({"error": KeyboardInterrupt()}, KeyboardInterrupt),
        ({"error": OSError("cut")}, StorageError),
        ({"writes": False}, StorageError),
        ({}, None),
    ):
        downloader = Downloader(packed, **options)
        monkeypatch.setattr("litdata.streaming.downloader.get_downloader", lambda *_, it=downloader: it)
        if error:
            with pytest.raises(error):
                remote.fetch("packed.json")
    assert remote.fetch("packed.json").read_bytes() == (packed / "packed.json").read_bytes()


def test_a_cache_that_cannot_be_made_is_named(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"cache: {tmp_path}/file/\w+ cannot be made: Not a directory"):
        PackedDataModule(f"local:{packed}", str(tmp_path / "file"), **OPTIONS)


def test_chunks_of_other_samples_are_refused(tmp_path: Path) -> None:
    cache = litdata.streaming.Cache(str(tmp_path), chunk_size=2)
    cache[0] = {"image": b"0", "label": 1}
    cache.done()
    cache.merge()
    with pytest.raises(ValueError, match=r"has samples \['bytes', 'int'\].*mhc-vision pack"):
        ChunkReader(tmp_path)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"mean": (0.5,)}, {"broken": "no"}, {"mixup": -1.0}], ids=str)
def test_bad_arguments_are_named(packed: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PackedDataModule(str(packed), **{**OPTIONS, **wrong})
