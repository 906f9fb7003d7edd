"""The documentation site: built as `make docs` builds it, without a word of warning; links and references arrive."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[2]
PACKAGES = ("mhc_vision", *(f"mhc_vision.{name}" for name in ("data", "kernels", "layers", "models", "training")))


class Page(HTMLParser):
    """What a page offers to links, and what its own links and pictures ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.targets |= {given[name] for name in ("href", "src") if name in given}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The built pages by their files."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
    # the page for what is not found has addresses below the site's root
    pages = [path for path in folder.rglob("*.html") if path.name != "404.html"]
    return {path: Page(path.read_text(encoding="utf-8")) for path in pages}


def test_make_builds_the_same_way() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\ndocs: setup\n")[1].split("\n\n")[0]
    assert "NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet\n" in recipe


def test_every_link_arrives(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        for target in page.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchor = unquote(url.fragment)
            found = site[file].anchors if file in site else set()
            if not file.exists() or (anchor and anchor not in found):
                broken.append(f"{path.name}: {target}")
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(site: dict[Path, Page]) -> None:
    for path in site:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text), path.name


def test_the_reference_has_every_public_name(site: dict[Path, Page]) -> None:
    documented = [
        _object(anchor) for page in site.values() for anchor in page.anchors if anchor.startswith("mhc_vision.")
    ]
    missing = []
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            value = getattr(package, name)
            is_package = getattr(value, "__path__", None) is not None
            if not name.startswith("__") and not is_package and not any(value is one for one in documented):
                missing.append(f"{package.__name__}.{name}")
    assert missing == []


def _object(anchor: str) -> object:
    """What an anchor of the reference stands for; the anchor itself, where it is a heading's."""
    try:
        return pkgutil.resolve_name(anchor)
    except (AttributeError, ImportError):
        return anchor
