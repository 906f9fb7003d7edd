"""What all figures share: how they are made and written, and colours that colour-blind people can tell apart."""

import os
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import replaced_file

# Okabe and Ito's palette without black and yellow: told apart with every common colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
# perceptually even, and of rising lightness also without colours
SEQUENTIAL = "viridis"
# blue, white and brown: no red against green
DIVERGING = "PuOr_r"


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches, without pyplot and its state.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'mhc-vision[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def line_look(index: int) -> dict[str, Any]:
    """Colour, line style and marker of the line number `index`, which differ in more than the colour."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 3.5,
        "linewidth": 1.4,
    }


def save_figure(figure: Any, destination: str | os.PathLike[str]) -> list[Path]:
    """Writes a figure as PNG and SVG.

    Args:
        figure: Of matplotlib.
        destination: Path without extension.

    Returns:
        The two files.
    """
    files = [Path(f"{os.fspath(destination)}{suffix}") for suffix in (".png", ".svg")]
    for file in files:
        with replaced_file(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], dpi=160)
    return files
