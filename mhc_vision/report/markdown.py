"""Markdown: tables, and text from logs that is shown as it is and is never markup."""

import re
from collections.abc import Mapping, Sequence

# what `code` is marked by in the text of reports
CODE = re.compile(r"`([^`]+)`")
# colours first; what breaks lines stays
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\u0085\u2028\u2029]\s*")
_SPECIAL = re.compile(r"[\\`*|~]|<(?=[A-Za-z/!?])|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


def inline_markdown(text: str, *, in_table: bool = False) -> str:
    """Text as part of a line: `code` between backticks is set apart; all else is shown as it is."""
    parts = CODE.split(_LINE_BREAKS.sub(" ", printable(text)))
    # the odd ones were between backticks, where a table takes pipes for its own, and nothing else is markup
    parts[1::2] = [f"`{part.replace('|', chr(92) + '|') if in_table else part}`" for part in parts[1::2]]
    parts[::2] = [_SPECIAL.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def code_span(text: str) -> str:
    """Text as code within a line, whatever it has of backticks."""
    text = _LINE_BREAKS.sub(" ", printable(text))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def code_block(text: str) -> str:
    """Text as lines of their own, shown as they are."""
    return "\n".join(f"    {line}" for line in printable(text).splitlines())


def printable(text: str) -> str:
    """Text without control characters and colours of a terminal; its lines stay."""
    return _CONTROL.sub("", text)


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table of rows that share their keys, which become the header; cells are shown as `str` gives them.

    Nothing in them is markup but `code` between backticks. Columns are padded, so the table reads well as plain text,
    too; all but the first are aligned to the right.

    Raises:
        ValueError: If there are no rows, or a row has other keys than the first.
    """
    if not rows:
        raise ValueError("rows: got none, expected at least one")
    header = list(rows[0])
    for row in rows:
        if list(row) != header:
            raise ValueError(f"rows: got one with the keys {list(row)}, expected {header} in each")
    lines = [header, *([str(row[key]) for key in header] for row in rows)]
    cells = [[inline_markdown(text, in_table=True) for text in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(header))]
    aligned = [
        " | ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    rule = " | ".join("-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in [aligned[0], rule, *aligned[1:]]) + "\n"
