"""What happens where a dataset is missing: without network, with torchvision's download replaced."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torchvision.datasets
from filelock import FileLock
from torchvision_copies import accept_any_checksum, write_copy

from mhc_vision.data.downstream.catalog import SETS
from mhc_vision.data.downstream.fetch import fetch_missing, require_packages


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads that write a small copy, once; the names of the datasets are noted."""
    accept_any_checksum(monkeypatch)
    done: list[str] = []

    def replace(name: str) -> None:
        original = getattr(torchvision.datasets, SETS[name].class_name)

        def build(root: str, download: bool = False, **arguments: Any) -> Any:
            if download and name not in done:
                done.append(name)
                write_copy(name, Path(root))
            return original(root, **arguments)

        monkeypatch.setattr(torchvision.datasets, SETS[name].class_name, build)

    for name in ("cifar10", "sun397", "flowers102", "pcam"):
        replace(name)
    return done


def test_what_is_missing_is_fetched_once(downloads: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        fetch_missing("cifar10", SETS["cifar10"], tmp_path, download=True)
    assert downloads == ["cifar10"]
    assert (tmp_path / "cifar-10-batches-py" / "test_batch").is_file()


def test_a_process_waits_for_one_that_fetches(downloads: list[str], tmp_path: Path) -> None:
    other = FileLock(tmp_path / ".cifar10.lock", thread_local=False)
    other.acquire()
    # half of it is there
    write_copy("cifar10", tmp_path)
    thread = threading.Thread(target=fetch_missing, args=("cifar10", SETS["cifar10"], tmp_path, True))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    other.release()
    thread.join(5)
    assert not thread.is_alive()
    assert downloads == []


def test_a_dataset_that_is_there_needs_no_right_to_write(
    downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_copy("cifar10", tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    before = sorted(tmp_path.rglob("*"))
    fetch_missing("cifar10", SETS["cifar10"], tmp_path, download=True)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(
        ValueError, match=f"without cifar-10-batches-py/test_batch, expected all of cifar10, and {tmp_path} cannot be"
    ):
        fetch_missing("cifar10", SETS["cifar10"], tmp_path, download=True)


def test_a_part_is_neither_completed_nor_written_over(downloads: list[str], tmp_path: Path) -> None:
    write_copy("flowers102", tmp_path)
    (tmp_path / "flowers-102" / "setid.mat").unlink()
    (tmp_path / "flowers-102" / "jpg" / "image_00001.jpg").write_bytes(b"mine")
    with pytest.raises(
        ValueError, match=r"flowers102: got flowers-102/imagelabels.mat, flowers-102/jpg in .*, expected "
    ):
        fetch_missing("flowers102", SETS["flowers102"], tmp_path, download=True)
    assert downloads == []
    assert (tmp_path / "flowers-102" / "jpg" / "image_00001.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("name", SETS)
def test_without_download_the_message_says_what_to_place_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"download is false|nothing fetches it") as refused:
        fetch_missing(name, SETS[name], tmp_path, download=False)
    message = str(refused.value)
    assert SETS[name].source in message
    assert all(str(tmp_path / file) in message for file in SETS[name].files)
    assert SETS[name].note in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fer2013", "stanford_cars"])
def test_what_nothing_fetches_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"of {name}, and nothing fetches it; to place it by hand, take from http"):
        fetch_missing(name, SETS[name], tmp_path, download=True)


def test_a_failed_download_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.dtd.download_and_extract_archive", fail)
    with pytest.raises(ValueError, match="dtd cannot be fetched: <urlopen error Name or service not known>; to place"):
        fetch_missing("dtd", SETS["dtd"], tmp_path, download=True)


@pytest.mark.parametrize("is_there", [False, True])
def test_the_partition_of_sun397_is_placed_by_hand(
    downloads: list[str], is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place() -> None:
        write_copy("sun397", tmp_path)
        for name in ("Training_01.txt", "Testing_01.txt"):
            (tmp_path / "SUN397" / name).unlink()

    if is_there:
        place()
    else:
        # as much as the archive has
        original = torchvision.datasets.SUN397

        def build(root: str, download: bool = False) -> Any:
            downloads.append("sun397")
            place()
            return original(root)

        monkeypatch.setattr(torchvision.datasets, "SUN397", build)
    with pytest.raises(
        ValueError,
        match=r"(?s)without SUN397/Testing_01\.txt, SUN397/Training_01\.txt, expected all of sun397, and torchvision",
    ) as refused:
        fetch_missing("sun397", SETS["sun397"], tmp_path, download=True)
    message = str(refused.value)
    assert SETS["sun397"].source in message
    assert "are in Partitions.zip of that page" in message
    # what is there would be fetched once more, without them again
    assert "move it away" not in message
    assert downloads == ([] if is_there else ["sun397"])


def test_imagenet_is_unpacked_from_its_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"cannot be fetched: The archive ILSVRC2012_devkit_t12\.tar\.gz is not"):
        fetch_missing("imagenet", SETS["imagenet"], tmp_path, download=True)
    unpacked: list[str] = []

    def unpack(root: str, split: str) -> Any:
        unpacked.append(split)
        if split == "val":
            write_copy("imagenet", Path(root))
        return SimpleNamespace()

    monkeypatch.setattr(torchvision.datasets, "ImageNet", unpack)
    fetch_missing("imagenet", SETS["imagenet"], tmp_path, download=True)
    assert unpacked == ["train", "val"]


def test_a_missing_package_names_the_extra(
    downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ImportError, match=r"svhn needs scipy: pip install 'mhc-vision\[datasets\]'"):
        require_packages("svhn", SETS["svhn"].packages)
    with pytest.raises(ImportError, match=r"pcam needs gdown: pip install 'mhc-vision\[datasets\]'"):
        fetch_missing("pcam", SETS["pcam"], tmp_path, download=True)
