"""Names at the ends of lines, in place of a legend that a reader has to go back and forth to."""

import math
from collections.abc import Sequence
from typing import Any

NAME_HEIGHT = 0.19
"""Inches of a figure's height that each name takes."""
# share of the axes' width
_ENDS_EARLY = 0.9


def name_lines(axes: Any, lines: Sequence[Any]) -> None:
    """Writes the label of each line at its end, apart from each other, in place of a legend."""
    # the axes' limits are only found when they are asked for
    foot = axes.get_xlim()[1], axes.get_ylim()[0]
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line in lines:
        points = [point for point in zip(*line.get_data(), strict=True) if math.isfinite(point[1])]
        # a line without any is named at the foot
        step, value = points[-1] if points else foot
        across, place = map(float, to_axes.transform((step, value)))
        ends.append((place, across, step, value, line))
    ends.sort(key=lambda end: end[0])
    distance = NAME_HEIGHT / (axes.figure.get_figheight() - 0.8)
    places = spread_apart([min(1.0, max(0.0, place)) for place, *_ in ends], distance, 1.0)
    for (_, across, step, value, line), place in zip(ends, places, strict=True):
        leader = {"color": line.get_color(), "linestyle": line.get_linestyle(), "linewidth": 1.0}
        if across < _ENDS_EARLY:
            # across other lines it must not look like the line going on
            leader |= {"linestyle": ":", "linewidth": 0.8, "alpha": 0.6}
        axes.annotate(
            line.get_label(),
            (step, value),
            xytext=(1.07, place),
            textcoords="axes fraction",
            fontsize=8.5,
            va="center",
            arrowprops={"arrowstyle": "-", "shrinkA": 1, "shrinkB": 2, "relpos": (0.0, 0.5), **leader},
            annotation_clip=False,
        )


def spread_apart(places: Sequence[float], distance: float, highest: float) -> list[float]:
    """Rising places, moved as little as needed to be `distance` apart and, where there is room, from 0 to `highest`."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        # groups that overlap become one, in the middle of where its places were
        while (
            len(groups) > 1 and _first(groups[-1], distance, highest) - _last(groups[-2], distance, highest) < distance
        ):
            last = groups.pop()
            groups[-1] += last
    return [_first(group, distance, highest) + distance * index for group in groups for index in range(len(group))]


def _first(group: Sequence[float], distance: float, highest: float) -> float:
    length = distance * (len(group) - 1)
    return max(0.0, min(highest - length, sum(group) / len(group) - length / 2))


def _last(group: Sequence[float], distance: float, highest: float) -> float:
    return _first(group, distance, highest) + distance * (len(group) - 1)
