"""Files and modules that documents and the heads of configuration files name are there."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").rglob("*.yaml")),
]
_PATH = re.compile(
    r"(?<![\w/.{])(?:configs|docs|benchmarks|tests|examples|mhc_vision)/[\w./-]+\.(?:py|yaml|md|sbatch|png|svg)"
)
_MODULE = re.compile(r"python -m (mhc_vision[\w.]*)")
# `blocks[:6](tokens)` is no link
_LINK = re.compile(r"\]\((?!https?:)([\w/-]+\.[^)#]+)")
# diffs add files
_NEW_FILE = re.compile(r"^--- /dev/null\n\+\+\+ b/\S+$", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    text = _NEW_FILE.sub("", document.read_text(encoding="utf-8"))
    missing = [path for path in _PATH.findall(text) if not (ROOT / path).exists()]
    missing += [module for module in _MODULE.findall(text) if importlib.util.find_spec(module) is None]
    if document.suffix == ".md":
        missing += [link for link in _LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []
