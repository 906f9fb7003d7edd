"""docs/extending.md: each change applies to the package as it is, touches few files, and does what the guide says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import mhc_vision

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "extending.md").read_text()
HELPERS = Path(__file__).parent / "helpers"


class Hunk(NamedTuple):
    """Lines of a file, and what they become; the path is below the root."""

    path: str
    is_new: bool
    before: str
    after: str


def hunks(diff: str) -> list[Hunk]:
    """The hunks of a diff, which have no line numbers."""
    found = []
    for part in re.split(r"^(?=--- )", diff, flags=re.MULTILINE)[1:]:
        header, *bodies = re.split(r"^@@\n", part, flags=re.MULTILINE)
        old, new = re.fullmatch(r"--- (\S+)\n\+\+\+ b/(\S+)\n", header).groups()
        for body in bodies:
            lines = body.splitlines(keepends=True)
            assert all(line[0] in " +-" for line in lines), body
            before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            found.append(Hunk(new, old == "/dev/null", before, after))
    return found


def changes() -> dict[str, list[Hunk]]:
    """The hunks of each part of the guide."""
    parts = re.split(r"^## (.+)\n", GUIDE, flags=re.MULTILINE)[1:]
    return {
        title: [
            hunk for diff in re.findall(r"^```diff\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for hunk in hunks(diff)
        ]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """The folder of a copy of the package with all that the guide adds."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(
        Path(mhc_vision.__file__).parent, folder / "mhc_vision", ignore=shutil.ignore_patterns("__pycache__")
    )
    for hunk in (hunk for part in changes().values() for hunk in part):
        path = folder / hunk.path
        if hunk.is_new:
            assert not path.exists(), path
            path.write_text(hunk.after)
        else:
            text = path.read_text()
            assert text.count(hunk.before) == 1, f"{hunk.path}: not there once:\n{hunk.before}"
            path.write_text(text.replace(hunk.before, hunk.after))
    return folder


def test_how_many_files_each_change_touches():
    files = {title: len({hunk.path for hunk in part}) for title, part in changes().items()}
    expected = {
        "A constraint": 1,
        "A connection": 2,
        "A figure of the analysis": 2,
        "A dataset": 1,
        "A command": 2,
    }
    assert files == expected
    told = [int(count) for count in re.findall(r"^\| a .+?\| +(\d) \|", GUIDE, re.MULTILINE)]
    assert told == list(expected.values())


def test_what_the_guide_adds_works(extended, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(extended), str(HELPERS)])}
    command = [sys.executable, "-W", "ignore", str(HELPERS / "use_extensions.py"), str(tmp_path)]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    gmacs, used = ran.stdout.splitlines()
    assert re.fullmatch(r"\d+\.\d{3} GMACs", gmacs)
    found = json.loads(used)
    assert Path(found["package"]).is_relative_to(extended)
    for part in ("constraint", "connection"):
        # fp32 rounding of logits of order one
        assert found[part]["difference"] < 1e-5
        assert found[part]["scripted"] == [6, 3]
    assert [name for name in found["connection"]["moved"] if name.endswith("_logits")] == [
        f"blocks.{block}.connection{branch}.{kind}_logits"
        for block in (0, 1)
        for branch in (1, 2)
        for kind in ("pre", "post")
    ]
    assert len(found["constraint"]["moved"]) >= 8
    assert found["figure"] == [1, True]
    assert found["dataset"] == {"classes": 10, "parts": [70, 10, 20]}
