"""What one sees of long work: a line that says what happens, a short bar at a terminal, and times in words."""

import logging
import sys
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")

_notes = logging.getLogger("mhc_vision.progress")

# columns; below, a bar of blocks would leave no room for figures
_WIDE = 64
_WIDE_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left"
_NARROW_FORMAT = "{desc} {percentage:.0f}% {remaining}"
_ENDLESS_FORMAT = "{desc} {n_fmt}, {elapsed}"
_WAITING_FORMAT = "{desc} ..."


def note(text: str) -> None:
    """Says what happens next, before work that takes seconds: an INFO record, which commands show on stderr."""
    _notes.info(text)


def duration(seconds: float) -> str:
    """A time as people say it: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ShortBar(tqdm, Generic[_Item]):
    """A progress bar on stderr that fits its terminal, is gone when it ends, and is not there without a terminal.

    Args:
        iterable: What it counts; `None` where `update` is called.
        desc: What happens.
        total: Of what it counts; `None` for the length of the iterable, or where nobody knows.
        unit: What it counts; with `"images"`, images per second are shown.
        disable: No bar, whatever stderr is.

    Attributes:
        figures: Shown at its end as far as there is room, such as `loss 1.25`; the most important first.
    """

    def __init__(
        self,
        iterable: Iterable[_Item] | None = None,
        *,
        desc: str = "",
        total: float | None = None,
        unit: str = "batches",
        disable: bool = False,
    ) -> None:
        self.figures: tuple[str, ...] = ()
        super().__init__(
            iterable,
            desc=desc,
            total=total,
            unit=unit,
            file=sys.stderr,
            # None: none where the file is no terminal
            disable=True if disable else None,
            leave=False,
            dynamic_ncols=True,
            # one line: a bar in the middle of another's work takes its place
            position=0,
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """Of tqdm: what a bar is made of, here with a format for the width of the terminal."""
        values = super().format_dict
        if self.disable:
            return values
        figures = list(self.figures)
        if self.unit == "images" and values["n"] and values["elapsed"]:
            figures.append(f"{values['rate'] or values['n'] / values['elapsed']:,.0f} images/s")
        columns = values["ncols"] or _WIDE
        if not values["total"]:
            template, separator = (_ENDLESS_FORMAT if values["n"] else _WAITING_FORMAT), ", "
        elif columns >= _WIDE:
            template, separator = _WIDE_FORMAT, ", "
        else:
            template, separator = _NARROW_FORMAT, " "
            values["prefix"] = values["prefix"].removeprefix("epoch ")
            figures = [figure.replace("images/s", "img/s") for figure in figures]
        # without its blocks, of which there should be a few
        fixed = {**values, "bar_format": template.replace("{bar}", "    "), "postfix": "", "ncols": None}
        room = columns - len(self.format_meter(**fixed))
        shown = ""
        for figure in figures:
            if len(shown) + len(separator) + len(figure) > room:
                break
            shown += separator + figure
        return {**values, "bar_format": template + shown}
