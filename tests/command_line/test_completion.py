import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mhc-vision tr", {"train"}),
        ("mhc-vision list con", {"connections"}),
        ("mhc-vision train --model.lr", {"--model.lr"}),
        ("mhc-vision train --config connections/m", {"connections/mhc"}),
        ("mhc-vision evaluate --prec", {"--precision"}),
    ],
)
def test_a_shell_completes(tmp_path, line, expected):
    out = tmp_path / "completions"
    shell = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(out), "_ARGCOMPLETE_IFS": "\n"}
    subprocess.run(
        [sys.executable, "-m", "mhc_vision"],
        env={**os.environ, **shell, "PYTHONPATH": str(ROOT), "COMP_LINE": line, "COMP_POINT": str(len(line))},
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert expected <= {word.strip() for word in out.read_text().split("\n")}
