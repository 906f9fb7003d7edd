"""Markdown tables."""

from collections.abc import Mapping, Sequence

from mhc_vision.markdown import inline_markdown


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table of rows that share their keys, which become the header; cells are shown as `str` gives them.

    Nothing in them is markup but `code` between backticks. Columns are padded, so the table reads well as plain text,
    too; all but the first are aligned to the right.

    Raises:
        ValueError: If there are no rows, or a row has other keys than the first.
    """
    if not rows:
        raise ValueError("markdown_table needs at least one row, got none")
    header = list(rows[0])
    for row in rows:
        if list(row) != header:
            raise ValueError(f"rows of a table must share their keys: expected {header}, got {list(row)}")
    lines = [header, *([str(row[key]) for key in header] for row in rows)]
    cells = [[inline_markdown(text) for text in line] for line in lines]
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
