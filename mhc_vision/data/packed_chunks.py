"""Random access to litdata's chunks: one read of a sample's bytes, wherever it is.

litdata's own StreamingDataset reads chunks from front to back. Asked for single samples in a random order it opens,
maps and asks the kernel to fetch a whole chunk for each of them, and deletes or waits for chunks at a URL.
"""

import json
import os
import struct
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np

from mhc_vision.data.skip_broken import StorageError

SAMPLE_FORMAT = ("bytes", "bytes", "int")  # litdata's names for (file name, encoded image, label)
INDEX_FILE = "index.json"

_SIZES = struct.Struct("<3I")  # before each sample: bytes of its three values
_LABEL = struct.Struct("<q")


class ChunkReader:
    """Samples (name, encoded image, label) of the chunks in a folder, by index.

    Nothing stays open, so it can be copied to other processes at any time.

    Args:
        folder: With `index.json` and the chunks that it lists.

    Raises:
        ValueError: If the folder has no index or holds something else than samples of this form, uncompressed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        chunks = _load_index(folder / INDEX_FILE)
        self.files: list[str] = [name for name, _, _ in chunks]
        self.sizes: list[int] = [num_bytes for _, num_bytes, _ in chunks]
        self._ends = list(accumulate(num_samples for _, _, num_samples in chunks))
        self._offsets: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def chunk_of(self, index: int) -> int:
        """Number of the chunk that holds a sample."""
        return bisect_right(self._ends, index)

    def read(self, index: int) -> tuple[str, bytes, int]:
        """File name, encoded image and label of a sample.

        Raises:
            StorageError: If the chunk is missing or does not say where its samples are.
            ValueError: If it is too short for this sample, or the sample is not of the form; the message names the
                file.
        """
        chunk = self.chunk_of(index)
        first = self._ends[chunk - 1] if chunk else 0
        path = self.folder / self.files[chunk]
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise StorageError(f"packed data: {path} cannot be opened: {error.strerror}") from error
        try:
            offsets = self._chunk_offsets(chunk, handle, self._ends[chunk] - first)
            start, stop = offsets[index - first : index - first + 2].tolist()
            content = os.pread(handle, stop - start, start)
        finally:
            os.close(handle)
        if len(content) < stop - start:
            raise ValueError(f"packed data: {path} is too short for sample {index}; copy it again")
        sizes = _SIZES.unpack_from(content) if len(content) >= _SIZES.size else (0, 0, 0)
        if _SIZES.size + sum(sizes) != len(content) or sizes[-1] != _LABEL.size:
            raise ValueError(f"packed data: {path} has a broken header before sample {index}; copy it again")
        name_end = _SIZES.size + sizes[0]
        name = os.fsdecode(content[_SIZES.size : name_end])
        return name, content[name_end : -_LABEL.size], _LABEL.unpack_from(content, len(content) - _LABEL.size)[0]

    def _chunk_offsets(self, chunk: int, handle: int, count: int) -> np.ndarray:
        """Where each sample of a chunk starts, and where the last one ends: (count + 1,), kept from the first read."""
        if chunk not in self._offsets:
            path = self.folder / self.files[chunk]
            table = os.pread(handle, 4 * (count + 2), 0)
            if len(table) < 4 * (count + 2):
                raise StorageError(f"packed data: {path} is too short for the table of its {count} samples")
            offsets = np.frombuffer(table, np.uint32)
            if offsets[0] != count or (offsets[2:] < offsets[1:-1]).any():
                raise StorageError(f"packed data: {path} does not have the table of its {count} samples")
            self._offsets[chunk] = offsets[1:]
        return self._offsets[chunk]


def _load_index(path: Path) -> list[tuple[str, int, int]]:
    """File name, bytes and number of samples of each chunk."""
    try:
        index = json.loads(path.read_text())
        config = index["config"]
        form, compression, encryption = config["data_format"], config["compression"], config.get("encryption")
        chunks = [(chunk["filename"], chunk["chunk_bytes"], chunk["chunk_size"]) for chunk in index["chunks"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"packed data: {path} is missing or no index of litdata: {error!r}") from error
    if tuple(form or ()) != SAMPLE_FORMAT or compression or encryption:
        raise ValueError(
            f"packed data: {path} has samples {form}, compression {compression}, encryption {encryption}; "
            f"expected uncompressed {list(SAMPLE_FORMAT)}, as `mhc-vision pack` writes"
        )
    return chunks
