"""Checkpoints that are directories: a file of each process, written by `torch.distributed.checkpoint` and Lightning.

PyTorch unpickles their index and what is no tensor, and would run code that is in them; so both are looked through
first, and what is not data is refused.
"""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorStorageMetadata

INDEX = ".metadata"
REST = "meta.pt"
"""What is neither weights nor the optimiser's state, as Lightning names it."""

_WEIGHTS, _OPTIMIZER = "state_dict", "optimizer_"
_OF_INDEX = {
    "torch.distributed.checkpoint.metadata": (
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath"),
    "pathlib._local": ("PosixPath", "WindowsPath", "PurePosixPath"),
}


class _IndexReader(pickle.Unpickler):
    """Makes the classes of an index, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of this name."""
        if name not in _OF_INDEX.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an index")
        return super().find_class(module, name)


def damage_of_shards(path: Path) -> str:
    """What is wrong with the files of the processes in a sharded checkpoint, or an empty text.

    They have to be as long as the index says; PyTorch compares their checksums when it reads them.
    """
    try:
        index = _index(path)
        for where in index.storage_data.values():
            if (path / where.relative_path).stat().st_size < where.offset + where.length:
                return f"its part {where.relative_path} is cut short"
        for name, content in _objects(path, index):
            try:
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception as error:
                return f"its entry {name} is no data: {str(error).splitlines()[0]}"
    # a stream of pickled bytes that somebody else wrote fails in as many ways as there are bytes
    except Exception as error:
        return f"its parts cannot be read: {error}"
    return ""


def load_sharded(path: Path) -> dict[str, Any]:
    """As `torch.load` of one file with everything, but for values: weights are on the meta device.

    The optimisers' states, which say nothing of the run, are empty.
    """
    index = _index(path)
    weights = {
        name.removeprefix(f"{_WEIGHTS}."): torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        for name, entry in index.state_dict_metadata.items()
        if name.startswith(f"{_WEIGHTS}.") and isinstance(entry, TensorStorageMetadata)
    }
    num_optimizers = len({name.partition(".")[0] for name in index.state_dict_metadata if name.startswith(_OPTIMIZER)})
    rest = torch.load(path / REST, map_location="cpu", weights_only=True)
    return {**rest, "state_dict": weights, "optimizer_states": [{} for _ in range(num_optimizers)]}


def gather_shards(path: Path) -> dict[str, Any]:
    """All of a sharded checkpoint in memory, in the form of a file of one process.

    The optimisers' states name parameters where those of one process number them; both can be resumed from.
    """
    index = _index(path)
    flat: dict[str, Any] = dict.fromkeys(index.state_dict_metadata)
    for name, entry in index.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            flat[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    dcp.load(flat, checkpoint_id=path, no_dist=True)
    states: dict[str, Any] = {}
    for name, value in flat.items():
        # the index says what the dots in a name separate
        _insert(states, index.planner_data[name], value)
    content = {**load_sharded(path), _WEIGHTS: states[_WEIGHTS]}
    for number, state in enumerate(content["optimizer_states"]):
        state.update(states[f"{_OPTIMIZER}{number}"])
        groups = state["param_groups"]
        state["param_groups"] = [groups[i] for i in range(len(groups))]
    return content


def _index(path: Path) -> Metadata:
    with open(path / INDEX, "rb") as file:
        return _IndexReader(file).load()


def _objects(path: Path, index: Metadata) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of what is no tensor."""
    for entry, where in index.storage_data.items():
        if isinstance(index.state_dict_metadata.get(entry.fqn), BytesStorageMetadata):
            with open(path / where.relative_path, "rb") as file:
                file.seek(where.offset)
                yield entry.fqn, file.read(where.length)


def _insert(tree: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    *folders, name = path
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value
