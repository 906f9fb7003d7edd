"""From the names of class folders to the class indices of a model."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from timm.data import ImageNetInfo, infer_imagenet_subset

from mhc_vision.checks import first_few

_WORDNET_ID = re.compile(r"n\d{8}")


def folder_labels(names: Sequence[str], num_classes: int, class_index: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """The class index of each folder; the folders may be some of the classes only. Their order never counts.

    The first of these that fits all folders: names of the model's own classes; whole numbers, which are the indices
    (ImageNet-V2 has folders `0` to `999`); WordNet ids (`n01440764`), for a model that names no classes and has as
    many as an ImageNet.

    Args:
        names: Of the folders.
        num_classes: Of the model.
        class_index: Index of each class of the model by name; empty where it does not say.

    Returns:
        The index of each folder, and in words where it comes from.

    Raises:
        ValueError: If nothing fits, or only for some of the folders.
    """
    known = [name for name in names if name in class_index]
    if len(known) == len(names):
        return {name: class_index[name] for name in names}, "names of the model's classes"
    if known:
        unknown = set(names) - set(known)
        raise ValueError(
            f"folder: got {first_few(unknown)}, expected names of the model's {num_classes} classes, as others are"
        )
    if all(map(_is_number, names)) and not (class_index and all(map(_is_number, class_index))):
        return _numbers(names, num_classes), "folder names as class numbers"
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if not class_index and subset is not None and all(map(_WORDNET_ID.fullmatch, names)):
        synsets = {synset: index for index, synset in enumerate(ImageNetInfo(subset).label_names())}
        if foreign := set(names) - set(synsets):
            raise ValueError(
                f"folder: {first_few(foreign)}: not in {subset}, whose {num_classes} classes the model has"
            )
        return {name: synsets[name] for name in names}, f"WordNet ids of {subset}"
    expected = f"{first_few(class_index)}, or " if class_index else ""
    raise ValueError(
        f"folder: class folders {first_few(names)} do not tell which of the model's {num_classes} classes they are; "
        f"expected {expected}numbers from 0 to {num_classes - 1}, or WordNet ids for a model of ImageNet's classes"
    )


def is_imagenet_1k(num_classes: int, class_index: Mapping[str, int]) -> bool:
    """Whether these are ImageNet's 1,000 classes in their usual order; a model without names is taken at its number."""
    synsets = ImageNetInfo("imagenet-1k").label_names()
    if not class_index:
        return num_classes == len(synsets)
    return dict(class_index) == {synset: index for index, synset in enumerate(synsets)}


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _numbers(names: Sequence[str], num_classes: int) -> dict[str, int]:
    labels = {name: int(name) for name in names}
    if large := [name for name, label in labels.items() if label >= num_classes]:
        raise ValueError(f"folder: class numbers {first_few(large)} are too large for a model of {num_classes} classes")
    if twice := {label for label, count in Counter(labels.values()).items() if count > 1}:
        raise ValueError(f"folder: more than one class folder for number {first_few(twice)}")
    return labels
