"""The official splits of a dataset of torchvision's, checked to be whole."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torchvision.datasets
from torchvision.transforms import v2

from mhc_vision.checks import first_few
from mhc_vision.data.class_names import distinct_names
from mhc_vision.data.downstream.fetch import by_hand, fetch_missing, require_packages
from mhc_vision.data.downstream.images import FileImages, LabelledImages
from mhc_vision.data.downstream.spec import Split, TorchvisionSet
from mhc_vision.data.folders import has_hidden_part, is_hidden, walk_files
from mhc_vision.data.readers import TorchvisionImages


def open_splits(
    name: str, spec: TorchvisionSet, root: Path, download: bool = True, complete: bool = True
) -> tuple[list[str], dict[str, LabelledImages]]:
    """Names of the classes, and the images of each split; an undivided dataset with a published partition is divided.

    Image files are in the order of their names, whatever the order of the file system.

    Args:
        name: What an error calls the dataset.
        spec: The dataset.
        root: The folder it is in, or will be.
        download: Fetch what is missing.
        complete: Refuse a copy that has fewer images than there are officially.

    Raises:
        ImportError: If a package is missing.
        ValueError: If root or the dataset is not there, damaged or only partly there.
    """
    if not root.is_dir():
        state = "not a folder" if root.exists() else "missing"
        raise ValueError(f"root: {root} is {state}, expected the folder that {name} is in, or shall be fetched to")
    require_packages(name, spec.packages)
    fetch_missing(name, spec, root, download)
    if spec.paths is not None:
        for place in spec.places:
            if (root / place).is_dir():
                walk_files(root / place, "dataset", refuse_loops=True)
    names: dict[str, list[str]] = {}
    splits: dict[str, LabelledImages] = {}
    for split, official in spec.splits.items():
        try:
            names[split], splits[split] = _open(spec, root, official)
        except Exception as error:  # torchvision's readers fail in as many ways as there are formats
            reason = str(error).partition(" You can ")[0]
            raise ValueError(
                f"dataset: {name} in {root}: got a damaged or partial copy, expected a whole one: "
                f"{type(error).__name__}: {reason}; {by_hand(spec, root)}"
            ) from error
        if complete and len(splits[split].labels) < official.num_images:
            raise ValueError(
                f"dataset: {name} in {root}: got {len(splits[split].labels)} images of split {split!r}, expected "
                f"{official.num_images}; complete it, or accept it with complete=False; {by_hand(spec, root)}"
            )
        if spec.listed:
            _check_files(name, split, splits[split].images.paths)  # type: ignore[attr-defined]
    class_names = _check_classes(name, names, splits)
    if spec.partition is not None:
        images = splits["all"]
        paths = images.images.paths  # type: ignore[attr-defined]
        splits = {split: images.take(spec.partition(paths, root, split)) for split in ("train", "test")}
    return class_names, splits


def _open(spec: TorchvisionSet, root: Path, split: Split) -> tuple[list[str], LabelledImages]:
    """Names of the classes and the images that torchvision finds."""
    dataset: Any = getattr(torchvision.datasets, spec.class_name)(str(root), **split.arguments)
    names = distinct_names([name if isinstance(name, str) else ", ".join(name) for name in spec.class_names(dataset)])
    labels = [int(label) for label in spec.labels(dataset)]
    if spec.paths is None:
        return names, LabelledImages(TorchvisionImages(dataset, v2.Identity(), len(names)), labels)
    samples = sorted(
        (path, label)
        for path, label in zip(map(str, spec.paths(dataset)), labels, strict=True)
        if not has_hidden_part(path, root)
    )
    # torchvision takes hidden folders for classes
    visible = [label for label, name in enumerate(names) if not is_hidden(name)]
    names, new_labels = [names[label] for label in visible], {label: new for new, label in enumerate(visible)}
    paths, labels = [path for path, _ in samples], [new_labels[label] for _, label in samples]
    groups = [spec.group(path) for path in paths] if spec.group else None
    return names, LabelledImages(FileImages(paths, labels), labels, groups)


def _check_files(name: str, split: str, paths: Sequence[str]) -> None:
    """Check that files are there, with one look at each folder."""
    folders: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        folder, file = os.path.split(path)
        if folder not in folders:
            folders[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if file not in folders[folder]:
            absent.append(path)
    if absent:
        raise ValueError(
            f"dataset: {name}: got {len(paths) - len(absent)} images of split {split!r}, expected {len(paths)}; "
            f"missing: {first_few(absent)}"
        )


def _check_classes(name: str, names: dict[str, list[str]], splits: dict[str, LabelledImages]) -> list[str]:
    """The names, checked to be those of all splits, and each to have images in the first one, which trains."""
    first, *others = names
    for other in others:
        if names[other] != names[first]:
            differing = set(names[first]) ^ set(names[other])
            raise ValueError(
                f"dataset: {name}: got classes of split {other!r} that differ from split {first!r}, expected the same: "
                f"{first_few(differing)}"
            )
    labels = set(range(len(names[first])))
    for split, images in splits.items():
        if foreign := set(images.labels) - labels:
            raise ValueError(
                f"dataset: {name}: got labels {first_few(foreign)} in split {split!r}, expected 0 to {len(labels) - 1}"
            )
    if empty := labels - set(splits[first].labels):
        without = first_few(names[first][label] for label in empty)
        raise ValueError(f"dataset: {name}: got no images of {without} in split {first!r}, expected some of each class")
    return names[first]
