"""Residual of Sinkhorn-Knopp against its number of iterations."""

from typing import Any

from mhc_vision.analysis.figures.section import Section
from mhc_vision.report.figures import FAINT, SEQUENTIAL, new_figure

_SMALLEST = 1e-9


def draw_sinkhorn(sinkhorn: dict[str, Any], num_iters: int | None) -> Any:
    """Two panels, the largest and the median residual over tokens, one line per branch.

    Args:
        sinkhorn: of `SinkhornResidual.result`.
        num_iters: the model's own number of iterations, marked in the figure; None to leave it out.

    Returns:
        A matplotlib figure.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    figure = new_figure(9.0, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    # without its ends, of which a dark page hides one and a light page the other
    middle = ListedColormap([colormaps[SEQUENTIAL](0.25 + 0.6 * step / 255) for step in range(256)])
    colours = ScalarMappable(Normalize(0, max(1, *sinkhorn["branches"])), middle)
    for axes, key, title in zip(panels, ("max", "median"), ("Largest over tokens", "Median over tokens"), strict=True):
        for branch, values in zip(sinkhorn["branches"], sinkhorn[key], strict=True):
            drawn = [max(value, _SMALLEST) for value in values]
            axes.plot(sinkhorn["iterations"], drawn, "o-", markersize=3, linewidth=1.1, color=colours.to_rgba(branch))
        if num_iters is not None:
            axes.axvline(num_iters, color=FAINT, linestyle=":", linewidth=1.2)
            axes.annotate(
                f"model: {num_iters}",
                (num_iters, 1),
                xycoords=("data", "axes fraction"),
                fontsize=8,
                xytext=(-3, -3),
                textcoords="offset points",
                ha="right",
                va="top",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sinkhorn["iterations"], [str(count) for count in sinkhorn["iterations"]])
        axes.minorticks_off()
        axes.set_xlabel("Sinkhorn-Knopp iterations")
        axes.set_title(title, fontsize=10)
        axes.grid()
    panels[0].set_ylabel(f"|log column sum|, drawn from {_SMALLEST:g}")
    figure.colorbar(colours, ax=panels, label="branch")
    return figure


SINKHORN = Section(
    "sinkhorn",
    "Sinkhorn-Knopp",
    "What Sinkhorn-Knopp leaves of the columns after so many iterations (mHC, Eq. 9), computed in fp64 from the logits "
    "that the model makes for these images. Rows are normalised last and are exact.",
    draw=lambda record: (
        draw_sinkhorn(record["sinkhorn"], record["model"]["sinkhorn_iters"]) if record["sinkhorn"] else None
    ),
    otherwise="No connection of this model uses Sinkhorn-Knopp.",
)
