"""What an analysis leaves: figures, the numbers as JSON, and one page that shows them."""

import os
import shlex
from pathlib import Path
from typing import Any

from mhc_vision.analysis.figure_files import save_figure
from mhc_vision.analysis.figures.coefficient_figure import draw_classes, draw_coefficients
from mhc_vision.analysis.figures.gain_figure import draw_gains
from mhc_vision.analysis.figures.map_figure import draw_maps
from mhc_vision.analysis.figures.matrix_figure import draw_matrix
from mhc_vision.analysis.figures.similarity_figure import draw_similarity
from mhc_vision.analysis.figures.sinkhorn_figure import draw_sinkhorn
from mhc_vision.analysis.figures.stream_figure import draw_streams
from mhc_vision.analysis.report_blocks import Block, Code, Figure, Heading, Paragraph, Table, to_html
from mhc_vision.analysis.summary_table import summary_rows
from mhc_vision.atomic_files import json_text, new_directory

_CAPTIONS = {
    "gains": "Amax gain of res: largest absolute row sum (forward) and column sum (backward), averaged over tokens "
    "(mHC, arXiv 2512.24880, Sec. 3.1); and the largest |log column sum|, which also sees columns that attenuate. A "
    "plain residual has gain 1 and column error 0.",
    "sinkhorn": "What Sinkhorn-Knopp leaves of the columns after so many iterations (mHC, Eq. 9), computed in fp64 "
    "from the logits that the model makes for these images. Rows are normalised last and are exact.",
    "maps": "Mean maps over images and tokens. Row i of res says what stream i becomes.",
    "connection_matrix": "How much each branch reads of every earlier output, unfolded from the maps of each token and "
    "averaged over tokens (HC, arXiv 2409.19606, Eq. 27). A plain residual network has ones on and below the diagonal. "
    "A cross marks a branch that hardly reads the one before it, so that the two are parallel. Weights say nothing of "
    "the size of what they weigh.",
    "similarity": "Cosine between the inputs of adjacent branches, before any norm (HC, Fig. 3). Near 1, a branch "
    "changes little of what the next one reads.",
    "streams": "Streams in front of each branch and of the read-out. Cosine 1 and effective rank 1 (Roy and Vetterli, "
    "2007) mean that the streams have collapsed to copies; they start as copies of the embedding.",
    "coefficients": "Left: how much each dynamic coefficient varies between images. Right: part of that variance that "
    "the image's class explains, adjusted for the number of classes; grey where nothing varies, there is one class "
    "only, or no class has a second image.",
    "classes": "The coefficients whose means differ most between classes (after Fig. 12 of HC): median, quartiles, and "
    "5th and 95th percentile over the images of a class.",
}


def check_new_directory(directory: Path) -> None:
    """Raise ValueError unless `directory` is not there yet, or empty, and its place can be written to."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"out: {directory} is there already, expected a new or an empty directory")
    parent = next(path for path in directory.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"out: {directory} cannot be made in {parent}")


def write_analysis(record: dict[str, Any], directory: Path) -> Path:
    """Write `analysis.json`, `figures/*.{png,svg}` and `report.html`; the directory appears when it is complete.

    Args:
        record: `measure_model`'s, with `source` (what was analysed), `data` (on which images), `command` (words) and
            `versions`.
        directory: new or empty.

    Returns:
        The path of the report.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the directory is in use.
    """
    check_new_directory(directory)
    figures = {name: figure for name, figure in _figures(record).items() if figure is not None}
    with new_directory(directory) as temporary:
        (temporary / "analysis.json").write_text(json_text(record) + "\n", encoding="utf-8")
        files = {name: save_figure(figure, temporary / "figures" / name) for name, figure in figures.items()}
        (temporary / "report.html").write_text(to_html(_blocks(record, files)), encoding="utf-8")
    return directory / "report.html"


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    """Figures by name, in the order of the page; None where there is nothing to draw."""
    sinkhorn, coefficients = record["sinkhorn"], record["coefficients"]
    has_maps = record["model"]["connection"] is not None
    return {
        "gains": draw_gains(record["gains"]),
        "sinkhorn": draw_sinkhorn(sinkhorn, record["model"]["sinkhorn_iters"]) if sinkhorn else None,
        "maps": draw_maps(record["maps"]) if has_maps else None,
        "connection_matrix": draw_matrix(record["connection_matrix"]),
        "similarity": draw_similarity(record["similarity"]),
        "streams": draw_streams(record["streams"]),
        "coefficients": draw_coefficients(coefficients) if coefficients else None,
        "classes": draw_classes(coefficients) if coefficients and coefficients["shown"] else None,
    }


_HEADINGS = {
    "gains": "Gains",
    "sinkhorn": "Sinkhorn-Knopp",
    "maps": "Maps",
    "connection_matrix": "Unfolded connections",
    "similarity": "Inputs of adjacent branches",
    "streams": "Streams",
    "coefficients": "Dynamic coefficients",
    "classes": "Dynamic coefficients by class",
}
_WITHOUT = {
    "sinkhorn": "No connection of this model uses Sinkhorn-Knopp.",
    "maps": "A plain residual connection: one stream, and all maps are 1.",
    "coefficients": "The maps of this model are the same for every image.",
    "classes": "No coefficient differs between classes, as far as these images tell.",
}


def _blocks(record: dict[str, Any], files: dict[str, list[Path]]) -> list[Block]:
    model = record["model"]
    kind = f"{model['connection']}, {model['num_streams']} streams" if model["connection"] else "plain residual"
    images = f"{record['num_images']} images of {record['num_tokens']} tokens ({record['data']})"
    blocks: list[Block] = [
        Heading(1, f"Analysis of {record['source']}"),
        Paragraph(f"{kind}; {model['num_branches']} branches; {images}."),
        Table(summary_rows(record)),
    ]
    for name, heading in _HEADINGS.items():
        blocks.append(Heading(2, heading))
        if name in files:
            png, svg = files[name]
            blocks.append(Figure(png, svg, _CAPTIONS[name]))
        else:
            blocks.append(Paragraph(_WITHOUT[name]))
    versions = "; ".join(f"{package} {version}" for package, version in record["versions"].items())
    return [
        *blocks,
        Heading(2, "How this was made"),
        Paragraph(f"{versions}."),
        Code(shlex.join(record["command"])),
        Paragraph("All numbers are in `analysis.json`, the figures as PNG and SVG in `figures/`."),
    ]
