"""What has to be known of a dataset of torchvision's that its class there does not say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from mhc_vision.data.datamodule import Metric


@dataclass(frozen=True)
class Split:
    """One official split: the arguments that torchvision's class takes for it, and how many images it has."""

    arguments: Mapping[str, Any]
    num_images: int


@dataclass(frozen=True)
class TorchvisionSet:
    """One dataset.

    Attributes:
        class_name: In `torchvision.datasets`.
        splits: The official `train`, perhaps `val`, and `test`; only `all` where a dataset comes undivided.
        files: What lies where below the root; from a part with `<` or `*` on, a path is a pattern.
        source: Page that the files come from.
        note: What else there is to say to those who place the files by hand.
        metric: By which its papers compare: `top1`, or `mean_per_class`, the mean of the classes' accuracies.
        labels: The label of each image of torchvision's object.
        class_names: Their names, as texts or as tuples of synonyms.
        paths: The file of each image; `None` where torchvision's object holds the pixels.
        listed: Whether torchvision takes the names of the files from a list or a count, without a look at the folder.
        group: From a file to what it shows, where several show the same: these are not parted by chance.
        train_per_class: Training images of each class, where the dataset's papers draw them at random.
        partition: Indices of `train` or `test` in an undivided dataset, from its files and the root.
        packages: What reading it imports, beside torchvision's own requirements.
        fetch_packages: The same for fetching.
        in_memory: Whether all decoded images are small enough to be kept, at their own size.
        fetch: Whether torchvision downloads it, or unpacks archives that lie in the root, or neither.
        unfetched: Those of `files` that torchvision's download does not bring.
    """

    class_name: str
    splits: Mapping[str, Split]
    files: tuple[str, ...]
    source: str
    note: str = ""
    metric: Metric = "top1"
    labels: Callable[[Any], Sequence[int]] = attrgetter("_labels")
    class_names: Callable[[Any], Sequence[str | tuple[str, ...]]] = attrgetter("classes")
    paths: Callable[[Any], Sequence[str | Path]] | None = None
    listed: bool = False
    group: Callable[[str], str] | None = None
    train_per_class: int | None = None
    partition: Callable[[Sequence[str], Path, str], list[int]] | None = None
    packages: tuple[str, ...] = ()
    fetch_packages: tuple[str, ...] = ()
    in_memory: bool = False
    fetch: Literal["download", "unpack"] | None = "download"
    unfetched: tuple[str, ...] = ()

    @property
    def places(self) -> list[str]:
        """The files and folders below the root that a copy needs."""
        return list(dict.fromkeys(_without_pattern(file) for file in self.files))


def _without_pattern(file: str) -> str:
    parts = file.split("/")
    fixed = next((index for index, part in enumerate(parts) if "<" in part or "*" in part), len(parts))
    return "/".join(parts[:fixed])


def official_splits(key: str = "split", names: Mapping[str, Any] | None = None, **num_images: int) -> dict[str, Split]:
    """Splits that differ in one argument of torchvision's class.

    Args:
        key: The argument.
        names: Its values, where they are not the splits' own names.
        num_images: Of each split.
    """
    return {name: Split({key: (names or {}).get(name, name)}, count) for name, count in num_images.items()}


def train_and_test(train: int, test: int, **arguments: Any) -> dict[str, Split]:
    """Splits of so many images where torchvision's class takes `train: bool`, and further arguments."""
    return {"train": Split({"train": True, **arguments}, train), "test": Split({"train": False, **arguments}, test)}
