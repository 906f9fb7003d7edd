"""Figure of gains over size or compute: a panel for each arm, in it a line with intervals for each budget or size."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mhc_vision.comparison.report.scaling import Line
from mhc_vision.report.figures import INK, figure_style, line_look, new_figure, plain_text, save_figure

_COLUMNS = 3
# lines stand beside each other, as a factor on the logarithmic axis
_APART = 1.025


def plot_scaling(
    lines: Mapping[str, Sequence[Line]], destination: str | os.PathLike[str], *, label: str, over: str
) -> list[Path]:
    """Draws the gains of each arm; all panels share their axes, and 0 is the baseline.

    Args:
        lines: By arm, at least one; a name has the same look in all panels.
        destination: Path without extension; `.png` and `.svg` are written.
        label: What a gain is, with its unit.
        over: What it is drawn over, with its unit; the axis is logarithmic.

    Returns:
        The two files.

    Raises:
        ImportError: If matplotlib is missing.
    """
    # here: without matplotlib the rest of the package works
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    names = list(dict.fromkeys(line.name for of_arm in lines.values() for line in of_arm))
    columns = min(_COLUMNS, len(lines))
    rows = math.ceil(len(lines) / columns)
    with figure_style():
        figure = new_figure(1.0 + 2.6 * columns, 0.9 + 2.5 * rows)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        shown: dict[str, Any] = {}
        for place, (arm, of_arm) in enumerate(lines.items()):
            axes = panels[place]
            # where no panel is below
            axes.tick_params(labelbottom=place + columns >= len(lines))
            axes.set_title(plain_text(arm), fontsize=10)
            axes.axhline(0.0, color=INK, linewidth=0.8)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(axis="y")
            for line in of_arm:
                shown[line.name] = _draw(axes, line, names.index(line.name), len(names))
        for axes in panels[len(lines) :]:
            axes.remove()
        figure.supxlabel(over, fontsize=10)
        figure.supylabel(label, fontsize=10)
        handles = [shown[name] for name in names]
        figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(names)), frameon=False, fontsize=9)
        return save_figure(figure, destination)


def _draw(axes: Any, line: Line, index: int, count: int) -> Any:
    places = [place * _APART ** (index - (count - 1) / 2) for place in line.places]
    means = [gain.mean for gain in line.gains]
    # one seed has no interval
    widths = [gain.half_width or 0.0 for gain in line.gains]
    return axes.errorbar(places, means, yerr=widths, capsize=2.5, elinewidth=1.0, **line_look(index))
