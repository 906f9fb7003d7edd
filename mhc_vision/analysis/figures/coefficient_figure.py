"""Dynamic coefficients over images and classes, after Fig. 12 of HC (arXiv 2409.19606)."""

from typing import Any

import numpy as np

from mhc_vision.analysis.figures.depth_axis import BRANCH_LABEL
from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import COLOURS, RULE, SEQUENTIAL, new_figure

_NUM_CLASSES = 16


def draw_coefficients(coefficients: dict[str, Any]) -> Any:
    """Heat maps of how much each coefficient varies over images and what part of that the class explains.

    Args:
        coefficients: of `CoefficientDistribution.result`.

    Returns:
        A matplotlib figure.
    """
    entries = coefficients["entries"]
    std = np.array(coefficients["std"]).T
    share = np.array(coefficients["class_share"], dtype=float).T
    figure = new_figure(11.0, max(3.6, 1.4 + 0.14 * len(entries)))
    panels = figure.subplots(1, 2, sharey=True)
    _draw_heat_map(figure, panels[0], std, "Standard deviation over images (no unit)", None)
    # NaN, where classes cannot explain anything, stays grey
    _draw_heat_map(figure, panels[1], share.clip(0, 1), "Part of the variance that the class explains", 1.0)
    panels[0].set_yticks(range(len(entries)), entries, fontsize=min(7.0, 200 / len(entries)))
    panels[0].set_ylabel("coefficient (res: to, from)")
    return figure


def draw_classes(coefficients: dict[str, Any]) -> Any:
    """For the coefficients whose class means differ most, one box per class: median, quartiles, 5 % and 95 %.

    Args:
        coefficients: of `CoefficientDistribution.result`, with `shown` entries.

    Returns:
        A matplotlib figure.
    """
    shown = coefficients["shown"]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    classes = list(shown[0]["percentiles"])
    longest = max(len(name) for name in classes[:_NUM_CLASSES])
    height = 2.4 + (0.07 * longest if longest > 2 else 0)
    figure = new_figure(3.6 * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, entry in zip(panels.flat, shown, strict=False):
        axes.set_axis_on()
        boxes = [_box(entry["percentiles"][name]) for name in classes[:_NUM_CLASSES]]
        drawn = axes.bxp(boxes, showfliers=False, patch_artist=True, medianprops={"color": "black"})
        for box in drawn["boxes"]:
            box.set(facecolor=COLOURS[4], linewidth=0.8)
        axes.set_xticks(range(1, len(boxes) + 1), classes[:_NUM_CLASSES], fontsize=7, rotation=90 if longest > 2 else 0)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_title(f"branch {entry['branch']}, {entry['entry']}", fontsize=9)
        axes.grid(axis="y")
    more = f" (first {_NUM_CLASSES} of {len(classes)})" if len(classes) > _NUM_CLASSES else ""
    figure.supxlabel(f"class{more}", fontsize=9)
    figure.supylabel("coefficient, mean over an image's tokens", fontsize=9)
    return figure


def _draw_heat_map(figure: Any, axes: Any, values: Any, title: str, largest: float | None) -> None:
    axes.set_facecolor(RULE)
    image = axes.imshow(values, aspect="auto", cmap=SEQUENTIAL, vmin=0.0, vmax=largest, interpolation="nearest")
    axes.set_xlabel(BRANCH_LABEL)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes)


def _box(percentiles: list[float]) -> dict[str, float]:
    return dict(zip(("whislo", "q1", "med", "q3", "whishi"), percentiles, strict=True))


COEFFICIENTS = Section(
    "coefficients",
    "Dynamic coefficients",
    "Left: how much each dynamic coefficient varies between images. Right: part of that variance that the image's "
    "class explains, adjusted for the number of classes; grey where nothing varies, there is one class only, or no "
    "class has a second image.",
    draw=lambda record: draw_coefficients(record["coefficients"]) if record["coefficients"] else None,
    otherwise="The maps of this model are the same for every image.",
)
CLASSES = Section(
    "classes",
    "Dynamic coefficients by class",
    "The coefficients whose means differ most between classes (after Fig. 12 of HC): median, quartiles, and 5th and "
    "95th percentile over the images of a class.",
    draw=lambda record: (
        draw_classes(record["coefficients"]) if record["coefficients"] and record["coefficients"]["shown"] else None
    ),
    otherwise="No coefficient differs between classes, as far as these images tell.",
)
