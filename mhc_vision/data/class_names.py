"""Names of classes: of datasets whose files only number them, and rules for all names."""

from collections import Counter
from collections.abc import Sequence

from mhc_vision.checks import first_few

DIGITS = tuple(str(digit) for digit in range(10))

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""FER2013 (arXiv 1307.0414)."""

TISSUE = ("normal", "tumor")
"""PCAM (arXiv 1806.03962)."""

TRAFFIC_SIGNS = (
    *(f"speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    "end of speed limit 80",
    *(f"speed limit {limit}" for limit in (100, 120)),
    "no passing",
    "no passing for trucks",
    "right of way at the next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "curve left",
    "curve right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows",
    "road works",
    "traffic lights",
    "pedestrians",
    "children",
    "bicycles",
    "snow or ice",
    "wild animals",
    "end of all limits",
    "turn right",
    "turn left",
    "straight ahead",
    "straight ahead or right",
    "straight ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)
"""GTSRB (Stallkamp et al., IJCNN 2011), by its class numbers."""


def number_classes(num_classes: int) -> list[str]:
    """Names for classes that have none."""
    return [f"class {index}" for index in range(num_classes)]


def chosen_by_number(names: Sequence[str]) -> bool:
    """Whether names are those of `number_classes`, which say nothing of what the classes are."""
    return list(names) == number_classes(len(names))


def check_distinct(names: Sequence[str], argument: str) -> None:
    """Raise ValueError if two classes have one name.

    Args:
        names: Of the classes.
        argument: What the error calls the argument that they come from.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{argument}: got {first_few(twice)} more than once, expected a name for each class")


def check_class_names(names: Sequence[str], num_classes: int, argument: str) -> None:
    """Raise ValueError unless there is one name for each class.

    Args:
        names: Of the classes.
        num_classes: How many there are.
        argument: What the error calls the argument that they come from.
    """
    if len(names) != num_classes:
        raise ValueError(f"{argument}: got {len(names)} class names, expected one for each of {num_classes} classes")
    check_distinct(names, argument)


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, with the label after those of several classes: ImageNet has two kinds of crane."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} (label {label})" for label, name in enumerate(names)]
