"""Whether the classes of a model are those of a dataset, and in which order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset

from mhc_vision.checks import first_few
from mhc_vision.data.class_names import chosen_by_number
from mhc_vision.inference.load_model import LoadedModel
from mhc_vision.models.names import split_name

# of so many descriptions in their places, the others are of another edition, as ImageNet's own are and timm's
_SHARE_OF_DESCRIPTIONS = 0.5
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassMatch:
    """What `match_classes` gives.

    Attributes:
        kind: `"same"`, `"order"` for the same classes in another order, `"other"` classes, or `"unknown"`.
        order: With `"order"`: for each class of the dataset the index that it has in the model.
        said: In words.
    """

    kind: Literal["same", "order", "other", "unknown"]
    said: str
    order: tuple[int, ...] = ()


def match_classes(loaded: LoadedModel, names: Sequence[str] | None, published_weights: bool = True) -> ClassMatch:
    """Compares the classes of a model with those of a dataset of as many.

    Args:
        loaded: The model. It has the names of its own record; published ones of timm's with as many classes as an
            ImageNet are taken to have that one's.
        names: Of the dataset's classes, in the order of the labels; `None` where it has none.
        published_weights: Whether a model that goes by timm's name has timm's weights.
    """
    if names is None or chosen_by_number(names):
        return ClassMatch("unknown", "the data does not name its classes")
    own = _own_names(loaded)
    if own is not None:
        return _compare(own, names)
    if not published_weights or not timm.is_model(split_name(loaded.source).registered):
        return ClassMatch("unknown", "the start does not name its classes")
    subset = infer_imagenet_subset({"num_classes": loaded.num_classes})
    if subset is None:
        return ClassMatch("unknown", "the start does not name its classes")
    info = ImageNetInfo(subset)
    if all(map(_WORDNET_ID.fullmatch, names)):
        return _compare(info.label_names(), names)
    described = sum(info.index_to_description(index) == name for index, name in enumerate(names[: loaded.num_classes]))
    if described > _SHARE_OF_DESCRIPTIONS * len(names):
        return ClassMatch("same", f"the {len(names)} classes of {subset}")
    return ClassMatch("other", f"the start's classes are {subset}'s, the data has {first_few(names)}")


def _own_names(loaded: LoadedModel) -> list[str] | None:
    """The model's names in the order of its outputs; `None` unless it names all of them."""
    if not loaded.class_index or chosen_by_number(list(loaded.class_index)):
        return None
    names = sorted(loaded.class_index, key=loaded.class_index.__getitem__)
    complete = sorted(loaded.class_index.values()) == list(range(loaded.num_classes))
    return names if complete else None


def _compare(own: Sequence[str], names: Sequence[str]) -> ClassMatch:
    if list(own) == list(names):
        return ClassMatch("same", f"the same {len(names)} classes")
    places = {name: index for index, name in enumerate(own)}
    if places.keys() == set(names) and len(names) == len(own):
        return ClassMatch("order", f"the same {len(names)} classes", tuple(places[name] for name in names))
    foreign, lost = set(names) - places.keys(), places.keys() - set(names)
    return ClassMatch("other", f"the start has {first_few(lost)}, the data has {first_few(foreign)} in their place")
