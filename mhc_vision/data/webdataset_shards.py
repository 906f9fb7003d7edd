"""Webdataset shards: what timm's notation names, how many samples each has, and reading them in order."""

import itertools
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from timm.data.readers import create_reader
from torch import Tensor

from mhc_vision.data.decode import decode_any_bytes
from mhc_vision.data.readers import checked_label
from mhc_vision.data.webdataset_locations import check_locations

RawSample = dict[str, Any]
_IMAGE_KEYS = "jpg;png;webp"


@dataclass(frozen=True)
class Shards:
    """Tar files of samples, in order, with the number of samples in each.

    Attributes:
        urls: Paths, or URLs that webdataset reads.
        lengths: Samples in each.
        image_keys: Suffixes of a sample's files of which the first one present is its image.
        label_key: Field of the sample's `.json` that holds its label, `a/b` for a field in a field; `None`: `.cls`.
    """

    urls: tuple[str, ...]
    lengths: tuple[int, ...]
    image_keys: tuple[str, ...]
    label_key: str | None

    def __len__(self) -> int:
        return sum(self.lengths)

    def read(self, order: Sequence[int], start: int, stop: int) -> Iterator[RawSample]:
        """Undecoded samples `start` to `stop` of all shards put together in this order.

        Args:
            order: Indices of the shards.
            start: First sample, counted over the shards in this order.
            stop: One after the last.

        Raises:
            ValueError: If a shard has not as many samples as it should.
        """
        first = 0
        for shard in order:
            length = self.lengths[shard]
            begin, end = max(start - first, 0), min(stop - first, length)
            if begin < end:
                yield from self._read_shard(shard, begin, end)
            first += length

    def decode(self, sample: RawSample, transform: Callable[[Tensor], Tensor], num_classes: int) -> tuple[Tensor, int]:
        """The image of a sample, decoded and transformed, and its label.

        Raises:
            ValueError: If image or label are missing or broken; the message names the sample.
        """
        name = f"sample {sample['__key__']} of {sample['__url__']}"
        content = next((sample[key] for key in self.image_keys if key in sample), None)
        if content is None:
            raise ValueError(f"image_key: {name}: got no image, expected one of the files {', '.join(self.image_keys)}")
        label = checked_label(self._label(sample, name), num_classes, name)
        return transform(decode_any_bytes(content, name)), label

    def _label(self, sample: RawSample, name: str) -> Any:
        if self.label_key is None:
            if "cls" not in sample:
                raise ValueError(
                    f"label_key: {name}: got no file .cls, expected the label in it; or name a field of .json"
                )
            text = sample["cls"].decode(errors="replace").strip()
            return int(text) if text.removeprefix("-").isdecimal() else text
        try:
            value = json.loads(sample.get("json", b"{}"))
        except ValueError as error:
            raise ValueError(
                f"label_key: {name}: got a broken .json ({error}), expected one with {self.label_key!r}"
            ) from error
        for part in self.label_key.split("/"):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"label_key: {name}: got a .json without {self.label_key!r}, expected the label there")
            value = value[part]
        return value

    def _read_shard(self, shard: int, begin: int, end: int) -> Iterator[RawSample]:
        import webdataset

        url, expected = self.urls[shard], self.lengths[shard]
        samples = iter(webdataset.tarfile_to_samples()(iter([{"url": url}])))
        count = 0
        for sample in itertools.islice(samples, end):
            if count >= begin:
                yield sample
            count += 1
        if count < end or (end == expected and next(samples, None) is not None):
            found = f"only {count}" if count < end else f"more than {expected}"
            raise ValueError(
                f"root: {url}: got {found} samples, expected {expected} (of _info.json or counted at the start)"
            )


def open_shards(
    dataset: str,
    root: str | None,
    split: str,
    image_key: str | None,
    label_key: str | None,
    allow_commands: bool = False,
) -> Shards:
    """The shards of one split of `wds/...`.

    The number of samples in each comes from `_info.json`, or from counting where the files are local.

    Args:
        dataset: timm's notation, `wds/` and any name.
        root: Folder or URL of the shards.
        split: A split of `_info.json`, or shards as `name-{0000..0009}.tar`.
        image_key: Suffixes of images, separated by `;`.
        label_key: Field of a sample's `.json` that holds its label; `None` reads `.cls`.
        allow_commands: Read from where webdataset runs a command, too (see `check_locations`).

    Raises:
        ValueError: If the split or a shard is missing, a command is needed and not allowed, the lengths of shards at a
            URL are not known, or `_info.json` is not of timm's form.
    """
    root = root or ""
    # timm opens _info.json there
    check_locations("root", [root], allow_commands)
    try:
        info = create_reader(dataset, root=root, split=split).split_info
    # the others are of an _info.json of another form
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"dataset: {dataset!r} has no split {split!r} in {root}: {error}; "
            "expected one of _info.json, or shards as 'name-{0000..0009}.tar'"
        ) from error
    _check_info(info, root, split)
    urls = tuple(os.path.join(root, name) for name in info.filenames)
    check_locations(f"split {split!r}", urls, allow_commands)
    lengths = tuple(info.shard_lengths)
    if not lengths:
        lengths = tuple(count_samples(url) for url in urls)
    if info.num_samples and info.num_samples != sum(lengths):
        raise ValueError(
            f"dataset: split {split!r}: got {sum(lengths)} samples in its shards, expected {info.num_samples}"
        )
    return Shards(urls, lengths, tuple((image_key or _IMAGE_KEYS).split(";")), label_key or info.alt_label or None)


def _check_info(info: Any, root: str, split: str) -> None:
    """Raise ValueError unless what `_info.json` says of a split is names of files and numbers of samples."""
    names, lengths = info.filenames, info.shard_lengths
    numbers = [info.num_samples, *lengths]
    if (
        not all(isinstance(name, str) for name in names)
        or not all(type(count) is int and count >= 0 for count in numbers)
        or len(lengths) not in (0, len(names))
        or not isinstance(info.alt_label, str)
    ):
        raise ValueError(
            f"root: _info.json in {root}: got {info!s:.200} for split {split!r}, expected filenames, as many "
            "shard_lengths and num_samples"
        )


def count_samples(path: str) -> int:
    """Samples in a local shard, of which only the names are read.

    Raises:
        ValueError: If it is no local file or no tar file.
    """
    from webdataset.tariterators import group_by_keys

    if not os.path.isfile(path):
        unknown = "is at a URL, and without _info.json with its shard_lengths its samples cannot be counted"
        raise ValueError(f"root: {path} {unknown if '://' in path or ':' in path.split('/')[0] else 'is missing'}")
    try:
        with tarfile.open(path) as tar:
            names = [member.name for member in tar if member.isreg() and not member.name.startswith("__")]
    # the others are of compressed files
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"root: got {path}, expected a readable tar file: {error}") from error
    return sum(1 for _ in group_by_keys({"fname": name, "data": b"", "__url__": path} for name in names))
