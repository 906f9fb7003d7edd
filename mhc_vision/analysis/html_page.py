"""One HTML page that needs no other file: headings, paragraphs, tables and figures."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
figure { margin: 1rem 0 } figure img { max-width: 100%; height: auto } figcaption { color: #555; font-size: 0.9rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.8rem; text-align: right }
th:first-child, td:first-child { text-align: left }
code { background: #f3f3f3; padding: 0.1rem 0.3rem } pre { background: #f3f3f3; padding: 0.8rem; overflow-x: auto }
"""


class HtmlPage:
    """A page that is built from top to bottom; texts are escaped, so they may hold any character.

    Args:
        title: Heading of the page.
    """

    def __init__(self, title: str) -> None:
        self._title = html.escape(title)
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Starts a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """A command or a listing, as it is."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, rows: Sequence[Mapping[str, object]]) -> None:
        """A table of rows that share their keys, which become the header; cells are shown as `str` gives them.

        Raises:
            ValueError: If there are no rows, or a row has other keys than the first.
        """
        if not rows:
            raise ValueError("rows: got none, expected at least one")
        header = list(rows[0])
        for row in rows:
            if list(row) != header:
                raise ValueError(f"rows: expected the keys {header} in each, got {list(row)}")
        head = "".join(f"<th>{html.escape(key)}</th>" for key in header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(str(row[key]))}</td>" for key in header) + "</tr>" for row in rows
        )
        self._parts.append(f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>')

    def figure(self, svg: Path, caption: str) -> None:
        """An SVG file, taken into the page.

        Args:
            svg: The file.
            caption: What it shows; also the text for readers who do not see it.
        """
        # as an image: inline SVGs of one page would share their ids
        data = base64.b64encode(svg.read_bytes()).decode("ascii")
        text = html.escape(caption)
        image = f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(caption, quote=True)}">'
        self._parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")

    def text(self) -> str:
        """The page."""
        body = "\n".join(self._parts)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{self._title}</title>\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{self._title}</h1>\n{body}\n</body>\n</html>\n"
        )
