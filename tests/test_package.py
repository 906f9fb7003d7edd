"""The wheel: installed into an environment of its own, away from the checkout, it runs with its own recipes."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from mhc_vision.version import __version__

ROOT = Path(__file__).parents[1]
SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1", "--trainer.enable_progress_bar", "false"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The command `mhc-vision` of an environment that has the wheel, and its requirements from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # read as a line of a .pth file, this folder's own .pth files, and with them the checkout, stay out
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "mhc-vision"


def run(command: Path, folder: Path, *words: str) -> str:
    finished = subprocess.run(
        [str(command), *words], cwd=folder, capture_output=True, text=True, check=False, env={"OMP_NUM_THREADS": "1"}
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_wheel_has_the_recipes_and_the_catalog(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"mhc_vision/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert recipes <= names
    assert {"mhc_vision/command_line/catalog.json", "mhc_vision/py.typed"} <= names
    assert wheel.name.startswith(f"mhc_vision-{__version__}-")


def test_the_index_would_take_it(wheel):
    checked = [sys.executable, "-m", "twine", "check", "--strict", *map(str, wheel.parent.iterdir())]
    finished = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_it_trains_away_from_the_checkout(installed, tmp_path):
    assert run(installed, tmp_path, "--version") == f"mhc-vision {__version__}\n"
    assert "DigitsDataModule" in run(installed, tmp_path, "show", "digits")
    run(installed, tmp_path, "train", "--config", "digits", *SHORT, "--trainer.default_root_dir", "run")
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_it_finetunes_and_compares_away_from_the_checkout(installed, tmp_path):
    run(installed, tmp_path, "train", "--config", "digits", *SHORT, "--trainer.default_root_dir", "plain")
    start = ("--config", "finetune/digits", "--config", "connections/mhc")
    start = (*start, "--model.name", "plain/checkpoints/last.ckpt")
    run(installed, tmp_path, "finetune", *start, *SHORT, "--trainer.default_root_dir", "run")
    assert (tmp_path / "run" / "summary.json").exists()
    short = [f"{key.removeprefix('--')}={value}" for key, value in zip(SHORT[:6:2], SHORT[1:6:2], strict=True)]
    words = [word for setting in short for word in ("--set", setting)]
    run(installed, tmp_path, "compare", "compare/digits", "--out", "compared", *words)
    assert (tmp_path / "compared" / "report.md").exists()
