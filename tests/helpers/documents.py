"""README, CONTRIBUTING and the pages of docs/ as tests read them: sections, tables, blocks of code, commands."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

PROGRAMS = ("make", "mhc-vision", "pip", "python", "sbatch", "torchrun")
"""What a command may start with; a test fails at any other, as bash does not find it."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    code: str
    line: int
    """Where it begins in its page, from 1."""


def name(page: Path) -> str:
    """A page's path below the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, *languages: str) -> list[Block]:
    """The blocks of code in these languages, of all where none is named."""
    found = [Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in _FENCE.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", text)


def sections(text: str) -> dict[str, str]:
    """Content of a page's sections by their headings, of the second level and below."""
    parts = re.split(r"^##+ (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table_rows(text: str) -> list[list[str]]:
    """Cells of the rows of a section's tables whose first cell is code."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0].startswith("`")]


def commands(shell: str) -> list[list[str]]:
    """The words of each command that a shell would run, loops, variables and line ends resolved.

    Other programs than `PROGRAMS` are not found, which fails.
    """
    record = '{ printf "%s\\x1f" "${FUNCNAME[0]}" "$@"; printf "\\x1e"; } >&3'
    functions = "\n".join(f"{program}() {record}" for program in PROGRAMS)
    bash = shutil.which("bash")
    assert bash is not None
    script = f"set -eu\nexec 3>&1\n{functions}\n{shell}"
    ran = subprocess.run([bash, "-c", script], env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [command.split("\x1f")[:-1] for command in ran.stdout.split("\x1e")[:-1]]


def option(words: list[str], name: str) -> str:
    """Value of an option in a command, the last one where there are several."""
    return words[len(words) - words[::-1].index(name)]
