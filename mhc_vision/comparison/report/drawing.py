"""What the figures of a comparison share: whether they can be drawn, and the figure of a metric by arm."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from mhc_vision.report.curves import plot_seed_bands
from mhc_vision.report.pages import Figure
from mhc_vision.run_directory import FIGURES

NO_FIGURES = "No figures: they need matplotlib (`pip install 'mhc-vision[plots]'`)."


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def band_figure(
    task: str,
    directory: Path,
    name: str,
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    label: str,
    caption: str,
    over: str = "optimiser step",
    zero_line: bool = False,
) -> Figure:
    """Draws `figures/<task>-<name>`; see `plot_seed_bands`."""
    destination = directory / FIGURES / f"{task}-{name.replace('/', '-')}"
    png, svg = plot_seed_bands(curves, destination, label=label, over=over, zero_line=zero_line)
    return Figure(png, svg, caption)
