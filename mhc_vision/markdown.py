"""Text from logs, configurations and checkpoints in Markdown: it is shown as it is, and is never markup."""

import re

# what `code` is marked by in the text of reports
CODE = re.compile(r"`([^`]+)`")
# colours first; what breaks lines stays
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\u0085\u2028\u2029]\s*")
_SPECIAL = re.compile(r"[\\`*|~]|<(?=[A-Za-z/!?])|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


def inline_markdown(text: str) -> str:
    """Text as a part of a line, in tables, too: only `code` between backticks is set apart; all else stays as it is."""
    parts = CODE.split(_LINE_BREAKS.sub(" ", printable(text)))
    # the odd ones were between backticks, where a pipe is all that a table would take for its own
    escaped = [
        f"`{part.replace('|', chr(92) + '|')}`" if index % 2 else _SPECIAL.sub(r"\\\g<0>", part)
        for index, part in enumerate(parts)
    ]
    return "".join(escaped)


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
