"""The classification datasets of torchvision by name."""

from mhc_vision.checks import nearest
from mhc_vision.data.sets_of_arrays import ARRAY_SETS
from mhc_vision.data.sets_of_files import FILE_SETS
from mhc_vision.data.torchvision_set import TorchvisionSet

SETS: dict[str, TorchvisionSet] = dict(sorted({**ARRAY_SETS, **FILE_SETS}.items()))


def find_set(name: str) -> TorchvisionSet:
    """What is known of a dataset.

    Raises:
        ValueError: If there is none of this name; the message has the nearest ones.
    """
    if name not in SETS:
        hint = nearest(name.lower(), SETS) or f"; there is: {', '.join(SETS)}"
        raise ValueError(f"dataset: unknown {name!r}{hint}")
    return SETS[name]
