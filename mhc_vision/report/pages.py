"""The parts of a report, and their form in Markdown and in one HTML file."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mhc_vision.report.markdown import CODE, code_block, inline_markdown, markdown_table, printable


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Text, in which `code` is marked by backticks."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows that share their keys; the first column names, the others hold figures."""

    rows: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Code:
    """Text to be shown as it is."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A figure in its two forms, below the directory of the report."""

    png: Path
    svg: Path
    caption: str


Block = Heading | Paragraph | Table | Code | Figure

# black on white and one blue: readable with every colour blindness, on paper, too
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2rem auto; padding: 0 1rem;
  max-width: 68rem; }
h1, h2, h3 { line-height: 1.2; margin: 2.2rem 0 0.8rem; }
h2 { border-bottom: 2px solid #0072b2; padding-bottom: 0.2rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.8rem; text-align: right; border-bottom: 1px solid #d0d0d0; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #1a1a1a; }
tbody tr:hover { background: #eef5fa; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; }
figcaption { font-size: 0.9rem; color: #444; }
pre { background: #f4f4f4; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; }
code { background: #f4f4f4; padding: 0 0.2rem; }
"""


def to_markdown(blocks: Sequence[Block], directory: Path) -> str:
    """Markdown, with figures linked relative to the directory it is written to."""
    return "\n\n".join(_markdown(block, directory).rstrip("\n") for block in blocks) + "\n"


def to_html(blocks: Sequence[Block]) -> str:
    """One HTML file that needs nothing else: figures are inside, as SVG."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body: list[str] = []
    for index, block in enumerate(blocks):
        if isinstance(block, Figure):
            first = index == 0 or not isinstance(blocks[index - 1], Figure)
            last = index + 1 == len(blocks) or not isinstance(blocks[index + 1], Figure)
            body.append(('<div class="figures">\n' if first else "") + _html(block) + ("\n</div>" if last else ""))
        else:
            body.append(_html(block))
    head = f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>{_text(title)}</title>'
    content = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{content}\n</body>\n</html>\n"
    )


def _markdown(block: Block, directory: Path) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {inline_markdown(block.text)}"
    if isinstance(block, Paragraph):
        return inline_markdown(block.text)
    if isinstance(block, Table):
        return markdown_table(block.rows)
    if isinstance(block, Code):
        return code_block(block.text)
    return f"![{inline_markdown(block.caption)}]({quote(block.png.relative_to(directory).as_posix())})"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_text(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{_text(block.text)}</p>"
    if isinstance(block, Table):
        header = "".join(f'<th scope="col">{_text(name)}</th>' for name in block.rows[0])
        rows = ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row.values()) + "</tr>" for row in block.rows]
        body = "\n".join(rows)
        return (
            f'<div class="table"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
        )
    if isinstance(block, Code):
        return f"<pre>{html.escape(printable(block.text))}</pre>"
    image = base64.b64encode(block.svg.read_bytes()).decode("ascii")
    alt = html.escape(block.caption)
    return (
        f'<figure><img src="data:image/svg+xml;base64,{image}" alt="{alt}">'
        f"<figcaption>{_text(block.caption)}</figcaption></figure>"
    )


def _text(text: str) -> str:
    return CODE.sub(r"<code>\1</code>", html.escape(printable(text)))
