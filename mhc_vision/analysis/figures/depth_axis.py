"""The axis that most figures share: the branches of a model, in order."""

from typing import Any

BRANCH_LABEL = "branch (even: attention, odd: MLP)"


def set_depth_axis(axes: Any, label: str = BRANCH_LABEL) -> None:
    """Let the x axis count branches, with whole numbers only."""
    axes.set_xlabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()


def set_cosine_scale(axes: Any, distributions: list[dict[str, float]]) -> None:
    """Let the y axis show the band, but no less than 0.9 to 1: rounding is not to look like a landscape."""
    axes.set_ylim(min(0.9, min(entry["p5"] for entry in distributions) - 0.05), 1.01)


def draw_band(axes: Any, places: list[int], distributions: list[dict[str, float]], colour: str) -> None:
    """The median over tokens as a line, and the band from the 5th to the 95th percentile."""
    low, median, high = ([entry[key] for entry in distributions] for key in ("p5", "median", "p95"))
    axes.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0, label="5-95 % of tokens")
    axes.plot(places, median, "o-", color=colour, markersize=3.5, linewidth=1.4, label="median over tokens")
