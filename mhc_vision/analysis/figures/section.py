"""Section of an analysis page: a figure, its heading and its caption."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """A part of the page of an analysis.

    Attributes:
        name: of the figure's files.
        heading: above the figure.
        caption: below it: what it shows, with units and source.
        draw: from the record of `measure_model` to a matplotlib figure; None where there is nothing to draw.
        otherwise: text in place of a figure that there is not.
    """

    name: str
    heading: str
    caption: str
    draw: Callable[[dict[str, Any]], Any]
    otherwise: str = ""
