"""What all figures share: their style, how they are written, and colours that colour-blind people can tell apart."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mhc_vision.atomic_files import replaced_file

# Okabe and Ito's palette without black and yellow: told apart with every common colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINE_STYLES = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
# perceptually even, and of rising lightness also without colours
SEQUENTIAL = "viridis"
# blue, white and brown: no red against green
DIVERGING = "PuOr_r"

INK, FAINT, RULE, PAPER = "#1a1a1b", "#5c5c5e", "#c8c8ca", "#fffffe"
"""Text and axes, side remarks, grid lines, background. No other thing has exactly these colours: pages replace them."""

DARK = {
    **{INK: "#e8e8ea", FAINT: "#a8a8ac", RULE: "#45454a", PAPER: "#17181b"},
    # the same hues, light enough for a dark page
    **{"#0072b2": "#4ba3dc", "#d55e00": "#f0813a", "#009e73": "#2fc299"},
}
"""What takes the place of a colour, as SVG writes it, on a dark page."""

# matplotlib's type lists every key
_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **{"grid.color": RULE, "grid.linewidth": 0.7, "axes.axisbelow": True},
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
    **{"axes.spines.top": False, "axes.spines.right": False},
    # the same figure is the same file
    "svg.hashsalt": "mhc-vision",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Within it, figures have the look of this library; matplotlib's settings are as before when it ends.

    Raises:
        ImportError: If matplotlib is missing.
    """
    _check_matplotlib()
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches, without pyplot and its state.

    Raises:
        ImportError: If matplotlib is missing.
    """
    _check_matplotlib()
    from matplotlib.figure import Figure

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


def plain_text(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")


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
            metadata = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(temporary, format=file.suffix[1:], dpi=160, metadata=metadata)
    return files


def _check_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'mhc-vision[plots]'") from error
