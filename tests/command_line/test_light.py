"""What a command answers before PyTorch is imported: help, names, and mistakes in words, paths and names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# what takes seconds to import is not there: whoever imports it fails
HEAVY = ("torch", "timm", "lightning", "numpy", "scipy", "matplotlib", "jsonargparse")
COMMANDS = (
    "train",
    "finetune",
    "evaluate",
    "predict",
    "embed",
    "analyze",
    "export",
    "profile",
    "compare",
    "list",
    "show",
)


@pytest.fixture(scope="module")
def without_heavy_packages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    for name in HEAVY:
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name}')\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def photos(without_heavy_packages) -> Path:
    """A folder with two class folders, where commands run."""
    folder = without_heavy_packages / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
    return folder


def run(folder: Path, words: list[str]) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "mhc_vision", *words],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{root}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: mhc-vision COMMAND"),
        (["--help"], "usage: mhc-vision COMMAND"),
        (["--version"], "mhc-vision 0."),
        *(([command, "--help"], f"usage: mhc-vision {command}") for command in COMMANDS),
        (["list"], "vit_base_patch16_224_*"),
        (["list", "recipes"], "finetune/cifar100"),
        (["list", "datasets"], "cifar100"),
        (["list", "designs"], "mudd"),
        (["show", "digits"], "DigitsDataModule"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_answers_at_once(without_heavy_packages, words, said):
    finished = run(without_heavy_packages, words)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert said in finished.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "error: command: got 'trian', expected one of train, "),
        (["train", "fitt"], "error: subcommand: got 'fitt'"),
        (["--config", "digts"], "error: config: got digts, which is no file, expected a YAML file or a recipe"),
        (
            ["train", "--config", "digits", "--model.lrr", "3"],
            "--model.lrr: there is no such option; nearest: --model.lr",
        ),
        (
            ["finetune", "--config", "finetune/cifar10", "--data.bathc_size", "3"],
            "DownstreamDataModule has no such option",
        ),
        (["finetune", "nowhere", "--model", "test_vit"], "error: PHOTOS: got nowhere, which is not there"),
        (["finetune", "photos/cat", "--model", "test_vit"], "got photos/cat without class folders"),
        (["finetune", "photos", "--model", "vit_base_patch16_22_mhc"], "nearest: vit_base_patch16_224_mhc"),
        (["finetune", "photos", "--model", "test_vit", "--data.bathc_size", "3"], "nearest: batch_size"),
        (["finetune", "photos"], "error: model: got none, expected --model NAME"),
        (["evaluate", "none.ckpt", "."], "error: model: got 'none.ckpt'"),
        (["evaluate", "vit_base_patch16_224_mhc", "nowhere"], "error: folder: got nowhere"),
        (["evaluate", "vit_base_patch16_22_mhc", "."], "nearest: vit_base_patch16_224_mhc"),
        (["evaluate", "vit_base_patch16_224_mhc", ".", "--batch-size", "many"], "invalid int value: 'many'"),
        (["predict", "vit_base_patch16_224_mhc", "nowhere.jpg"], "error: images: got nowhere.jpg"),
        (["predict", "vit_base_patch16_224", ".", "--connection", "mch"], "invalid choice: 'mch'"),
        (["embed", "test_vit", "nowhere.jpg", "--out", "new.npz"], "error: images: got nowhere.jpg"),
        (["embed", "test_vit", ".", "--out", "new.csv"], "new.csv, expected a name that ends in .npz or .parquet"),
        (["embed", "none.ckpt", ".", "--out", "new.npz"], "error: model: got 'none.ckpt'"),
        (["analyze", "none.ckpt", "--out", "new"], "error: model: got 'none.ckpt'"),
        (["export", "none.ckpt", "new"], "error: model: got 'none.ckpt'"),
        (["profile", "none.ckpt"], "error: model: got 'none.ckpt'"),
        (["compare", "nowhere", "--out", "new"], "error: matrix: got nowhere, which is no file"),
        (["list", "modles"], "nearest: models"),
        (["show", "digit"], "error: recipe: got 'digit', expected the name of a recipe; nearest: digits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named_at_once(without_heavy_packages, words, said):
    finished = run(without_heavy_packages, words)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("mhc-vision: error: ")
    assert said in finished.stderr
