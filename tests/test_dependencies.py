"""Dependencies point one way, from kernels at the bottom to commands at the top."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mhc_vision

PACKAGE = Path(mhc_vision.__file__).parent
_MODELS = {"kernels", "layers", "models"}
_STORED = {*_MODELS, "data", "stored"}
ALLOWED = {
    "kernels": {"kernels"},
    "layers": {"kernels", "layers"},
    "models": _MODELS,
    "data": {"data"},
    "stored": _STORED,
    "report": {"report"},
    "command_line": {"command_line"},
    "training": {*_STORED, "command_line", "training"},
    "inference": {*_STORED, "report", "inference"},
    "analysis": {*_STORED, "report", "inference", "analysis"},
    "finetuning": {*_STORED, "command_line", "training", "inference", "finetuning"},
    "comparison": {"data", "report", "command_line", "comparison"},
    "commands": {
        *_STORED,
        *("report", "command_line", "analysis", "training", "inference", "finetuning", "comparison", "commands"),
    },
}
# rooms within a part, from the lowest
ORDERED_ROOMS = ("comparison", ("plan", "run", "report"))
# modules beside the parts: these stand below all of them, the others (cli, demo) above
BELOW = {
    *(
        "accuracy",
        "atomic_files",
        "checks",
        "connection_text",
        "contribution",
        "directory_lock",
        "finite",
        "json_files",
    ),
    *(
        "metrics_log",
        "predictions",
        "progress",
        "run_directory",
        "segmentation_scores",
        "silenced",
        "termination",
        "version",
        "yaml_files",
    ),
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
