"""Writes an analysis: figures, the numbers as JSON, and one page that shows them."""

import shlex
from pathlib import Path
from typing import Any

from mhc_vision.analysis.figures.coefficient_figure import CLASSES, COEFFICIENTS
from mhc_vision.analysis.figures.gain_figure import GAINS
from mhc_vision.analysis.figures.map_figure import MAPS
from mhc_vision.analysis.figures.matrix_figure import MATRIX
from mhc_vision.analysis.figures.memory_figure import MEMORY
from mhc_vision.analysis.figures.similarity_figure import SIMILARITY
from mhc_vision.analysis.figures.sinkhorn_figure import SINKHORN
from mhc_vision.analysis.figures.stream_figure import STREAMS
from mhc_vision.analysis.figures.travel_figure import TRAVEL
from mhc_vision.analysis.summary_table import VERDICTS, summary_rows
from mhc_vision.atomic_files import check_new_directory, json_text, new_directory
from mhc_vision.progress import note
from mhc_vision.report.figures import figure_style, save_figure
from mhc_vision.report.pages import Block, Code, Figure, Heading, Paragraph, Table, to_html
from mhc_vision.run_directory import FIGURES, PAGE

# in the order of the page
SECTIONS = [TRAVEL, GAINS, MEMORY, SINKHORN, MAPS, MATRIX, SIMILARITY, STREAMS, COEFFICIENTS, CLASSES]


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
    check_new_directory(directory, "out")
    note("drawing the figures")
    with figure_style():
        drawn = {section.name: section.draw(record) for section in SECTIONS}
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    with new_directory(directory) as temporary:
        (temporary / "analysis.json").write_text(json_text(record) + "\n", encoding="utf-8")
        files = {name: save_figure(figure, temporary / FIGURES / name) for name, figure in figures.items()}
        (temporary / PAGE).write_text(to_html(_blocks(record, files)), encoding="utf-8")
    return directory / PAGE


def _blocks(record: dict[str, Any], files: dict[str, list[Path]]) -> list[Block]:
    model = record["model"]
    kind = f"{model['connection']}, {model['num_streams']} streams" if model["connection"] else "plain residual"
    images = f"{record['num_images']} images of {record['num_tokens']} tokens ({record['data']})"
    blocks: list[Block] = [
        Heading(1, f"Analysis of {record['source']}"),
        Paragraph(f"{kind}; {model['num_branches']} branches; {images}."),
        Table(summary_rows(record)),
        Paragraph(VERDICTS),
    ]
    for section in SECTIONS:
        blocks.append(Heading(2, section.heading))
        if section.name in files:
            png, svg = files[section.name]
            blocks.append(Figure(png, svg, section.caption))
        else:
            blocks.append(Paragraph(section.otherwise))
    versions = "; ".join(f"{package} {version}" for package, version in record["versions"].items())
    return [
        *blocks,
        Heading(2, "How this was made"),
        Paragraph(f"{versions}."),
        Code(shlex.join(record["command"])),
        Paragraph("All numbers are in `analysis.json`, the figures as PNG and SVG in `figures/`."),
    ]
