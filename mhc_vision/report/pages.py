"""The parts of a report, and their form in Markdown and in one HTML file."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mhc_vision.report.figures import DARK
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

# one blue beside grey: readable with every colour blindness, on paper, too
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1b; --faint: #5c5c5e; --rule: #d8d8da; --paper: #fffffe; --soft: #f3f4f6;
  --blue: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --faint: #a8a8ac; --rule: #3a3b40; --paper: #17181b; --soft: #232529; --blue: #4ba3dc; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  padding: 0 1rem; max-width: 68rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; margin: 2.2rem 0 0.8rem; }
h2 { border-bottom: 2px solid var(--blue); padding-bottom: 0.2rem; }
p { max-width: 48rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.8rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
td.text { white-space: normal; min-width: min(20rem, 45vw); }
td.text:first-child { position: static; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody tr:hover td { background: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1.5rem 1rem; }
figure { margin: 0; min-width: 0; }
.drawing { overflow-x: auto; }
.drawing img { display: block; width: 100%; height: auto; }
figcaption { margin-top: 0.4rem; font-size: 0.9rem; color: var(--faint); max-width: 48rem; }
pre { background: var(--soft); padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; }
code { background: var(--soft); padding: 0 0.2rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 0.75rem; }
  h1 { font-size: 1.5rem; }
  th, td { padding: 0.3rem 0.5rem; }
}
"""
# text of a wide figure would be too small on a phone, where it is scrolled instead
_SMALLEST_SCALE = 0.75
# and a small one by itself would fill the page
_LARGEST_SCALE = 1.25
# a column with longer cells than this holds sentences, not figures
_LONGEST_FIGURE = 28


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
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">\n{viewport}\n<title>{_text(title)}</title>'
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
        return _html_table(block.rows)
    if isinstance(block, Code):
        return f"<pre>{html.escape(printable(block.text))}</pre>"
    svg = block.svg.read_text(encoding="utf-8")
    image = base64.b64encode(_with_dark_colours(svg).encode("utf-8")).decode("ascii")
    alt = html.escape(block.caption)
    return (
        f'<figure><div class="drawing"><img src="data:image/svg+xml;base64,{image}" alt="{alt}"{_widths(svg)}>'
        f"</div><figcaption>{_text(block.caption)}</figcaption></figure>"
    )


def _html_table(rows: Sequence[Mapping[str, str]]) -> str:
    texts = {name for name in rows[0] if any(len(row[name]) > _LONGEST_FIGURE for row in rows)}
    kind = {name: ' class="text"' if name in texts else "" for name in rows[0]}
    header = "".join(f'<th scope="col"{kind[name]}>{_text(name)}</th>' for name in rows[0])
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind[name]}>{_text(cell)}</td>" for name, cell in row.items()) + "</tr>" for row in rows
    )
    return f'<div class="table"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _with_dark_colours(svg: str) -> str:
    """An SVG whose colours for text, axes, background and lines follow the page's light or dark scheme."""
    dark = {light: colour for light, colour in DARK.items() if f": {light}" in svg}
    if not dark:
        return svg
    names = {light: f"--c{light[1:]}" for light in dark}
    for light, name in names.items():
        svg = svg.replace(f": {light}", f": var({name})")
    by_scheme = [
        ":root { " + " ".join(f"{names[light]}: {colours[light]};" for light in dark) + " }"
        for colours in ({light: light for light in dark}, dark)
    ]
    style = f"<style>{by_scheme[0]} @media (prefers-color-scheme: dark) {{ {by_scheme[1]} }}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda opening: opening[1] + style, svg, count=1)


def _widths(svg: str) -> str:
    size = re.search(r'<svg\b[^>]*\bwidth="([0-9.]+)pt"', svg)
    if size is None:
        return ""
    smallest, largest = (scale * float(size[1]) for scale in (_SMALLEST_SCALE, _LARGEST_SCALE))
    return f' style="min-width: {smallest:.0f}pt; max-width: {largest:.0f}pt"'


def _text(text: str) -> str:
    return CODE.sub(r"<code>\1</code>", html.escape(printable(text)))
