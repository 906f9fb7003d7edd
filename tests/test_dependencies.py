"""Dependencies point one way: kernels <- layers <- models <- {training, analysis}, data <- training, rest on top."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mhc_vision

PACKAGE = Path(mhc_vision.__file__).parent
ALLOWED = {
    "kernels": {"kernels"},
    "layers": {"kernels", "layers"},
    "models": {"kernels", "layers", "models"},
    "data": {"data"},
    "analysis": {"kernels", "layers", "models", "analysis"},
    "training": {"kernels", "layers", "models", "data", "training"},
    "finetuning": {"kernels", "layers", "models", "data", "training", "finetuning"},
    "comparison": {"kernels", "layers", "models", "data", "training", "analysis", "comparison"},
}
# modules beside the parts: these stand below all of them, the others (cli, demo) above
BELOW = {
    *("atomic_files", "checks", "directory_lock", "finite", "json_files", "markdown"),
    *("metrics_log", "termination", "version", "yaml_files"),
}
FILES = [path for part in ALLOWED for path in sorted((PACKAGE / part).rglob("*.py"))]


def imported_parts(path: Path) -> set[str]:
    """Parts of mhc_vision that a file imports, anywhere in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = (module.split(".") for module in modules if module.startswith("mhc_vision."))
    return {part[1] for part in parts} - BELOW


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0]
    assert imported_parts(path) <= ALLOWED[part]


def test_kernels_hold_no_modules():
    for path in (PACKAGE / "kernels").rglob("*.py"):
        assert "nn.Module" not in path.read_text(), path
        assert "timm" not in path.read_text(), path


def test_import_is_light():
    """`import mhc_vision` brings neither lightning nor plotting."""
    code = "import sys, mhc_vision; print([m for m in ('lightning', 'matplotlib', 'sklearn') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
