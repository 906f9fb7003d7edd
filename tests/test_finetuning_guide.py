"""docs/finetune.md: its commands and Python blocks run in order, shortened and on small data; its tables are true.

Words are only put behind a command, where they win over its own. Of published weights the names are checked, and a tiny
ViT takes their place. A command that no rule below shortens fails the test.
"""

import inspect
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from hub_copies import write_hub_dataset
from safetensors.torch import save_file
from torchvision_copies import accept_any_checksum, write_copy, write_image

from mhc_vision.cli import main
from mhc_vision.data import DownstreamDataModule, ImageFolderDataModule
from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.data.downstream.catalog import SETS
from mhc_vision.data.downstream.spec import TorchvisionSet
from mhc_vision.finetuning.methods import METHODS
from mhc_vision.finetuning.module import FinetuneModule
from mhc_vision.training import ClassificationModule

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "finetune.md").read_text()
CHAINS = (("A first run", "Comparing"), ("Datasets", "Where to start from", "Afterwards"))
"""The sections that have code; those of a chain use what earlier ones have left."""

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "3"),
    *("--trainer.limit_test_batches", "3", "--trainer.log_every_n_steps", "1", "--model.warmup_epochs", "0", *QUIET),
)
SMALL = (
    *("--data.total_batch_size", "4", "--data.num_workers", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
)
PROBE = ("--model.probe_epochs", "2", "--model.probe_lrs", "[0.1]", "--model.probe_cs", "[1.0]")
TINY = ("--model.weights_file", "weights.safetensors", "--model.model_args.depth", "1")

COMES = {"download": "fetched", "unpack": "by hand", None: "by hand"}
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}


def sections(text: str) -> dict[str, str]:
    """Content of a document's sections by their headings."""
    parts = re.split(r"^##+ (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Language and code of each block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def table_rows(text: str) -> list[list[str]]:
    """Cells of the rows of a section's tables, without heads."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0].startswith("`") and "-" * 5 not in row[0]]


def commands(shell: str) -> list[list[str]]:
    """The words of each command that a shell would run, loops and variables resolved.

    Other programs than `mhc-vision` and `python` are not found, which fails.
    """
    record = '{ printf "%s\\x1f" "${FUNCNAME[0]}" "$@"; printf "\\x1e"; }'
    script = f"set -eu\nmhc-vision() {record}\npython() {record}\n{shell}"
    bash = shutil.which("bash")
    assert bash is not None
    ran = subprocess.run([bash, "-c", script], env={"PATH": ""}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [command.split("\x1f")[:-1] for command in ran.stdout.split("\x1e")[:-1]]


def option(words: list[str], name: str) -> str:
    """Value of an option in a command, the last one where there are several."""
    return words[len(words) - words[::-1].index(name)]


def shortened(words: list[str]) -> list[str]:
    """A command with what makes it short; fails where there is no rule for it."""
    match words:
        case ["python", "train_imagenet.py", "--config", "configs/digits.yaml", *_]:
            return [*words, *SHORT]
        case ["mhc-vision", "finetune", "validate", "--config", "configs/finetune/digits.yaml", *_]:
            return [*words, "--trainer.limit_val_batches", "3", *QUIET]
        case ["mhc-vision", "finetune", "--config", "configs/finetune/digits.yaml", *_]:
            return [*words, *SHORT, *PROBE]
        case ["mhc-vision", "finetune", "--config", recipe, *_] if recipe.startswith("configs/finetune/"):
            return [*words, *SHORT, *SMALL, *_tiny_start(words), *_copies(words)]
        case ["mhc-vision", "evaluate" | "predict", *_]:
            return [*words, "--num-workers", "0"]
        case ["mhc-vision", "export", *_]:
            return words
        case ["mhc-vision", "compare", *_]:
            return [*words, "--report-only"]
    return pytest.fail(f"no rule to shorten {' '.join(words)}")


def _tiny_start(words: list[str]) -> list[str]:
    """What takes the place of published weights, if a command starts from such."""
    name = option(words, "--model.name") if "--model.name" in words else ""
    if name.startswith("runs/"):
        return []
    published = name.removeprefix("hf-hub:timm/")
    if "--model.weights_file" not in words and name:
        assert timm.models.is_model_pretrained(published), published
    connection = re.search(r"_[sdm]hc(?=\.|$)", published)
    return ["--model.name", "test_vit" + (connection[0] if connection else ""), *TINY]


def _copies(words: list[str]) -> list[str]:
    """What a recipe's data module needs to read the small copies."""
    recipe = Path(words[3]).stem
    if recipe == "hfds":
        return ["--data.dataset", "hfds/beans"]
    return ["--data.complete", "false"] if recipe in SETS else []


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the repository's files, and small ones in place of those that a user has."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "train_imagenet.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run_section(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs what a section of the guide shows."""
    for language, code in code_blocks(sections(GUIDE)[name]):
        if language == "python":
            exec(compile(code, "docs/finetune.md", "exec"), {})
            continue
        assert language == "sh"
        for words in commands(code):
            run_command(shortened(words), monkeypatch)


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
        return
    if words[1] == "compare":
        # the runs are other tests' matter; here the matrix is read, and has to find that there are none yet
        with pytest.raises(SystemExit) as stop:
            main(words[1:])
        assert stop.value.code == 2
        return
    main(words[1:])
    if words[1:3] == ["finetune", "--config"]:
        assert (Path(option(words, "--trainer.default_root_dir")) / "report.md").is_file()


def test_every_block_is_in_a_chain() -> None:
    with_code = [name for name, content in sections(GUIDE).items() if code_blocks(content)]
    assert sorted(with_code) == sorted(name for chain in CHAINS for name in chain)


def test_a_first_run(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name in CHAINS[0]:
        run_section(name, monkeypatch)
    printed = capsys.readouterr()
    assert "runs/compare-finetune-digits without records of 57 of 57 runs" in printed.err
    runs = workplace / "runs"
    pretraining = json.loads((runs / "digits" / "summary.json").read_text())
    step_0 = re.search(r"val/top1\D+([\d.]+)", printed.out)
    assert step_0 is not None
    # as many digits as are printed
    assert float(step_0[1]) == pytest.approx(pretraining["metrics"]["val/top1"], abs=1e-6)
    summaries = {method: json.loads((runs / f"digits-{method}" / "summary.json").read_text()) for method in METHODS}
    table = {row[0].strip("`"): row[2] for row in table_rows(sections(GUIDE)["A first run"])}
    assert {method: f"{one['params']['trainable']:,}" for method, one in summaries.items()} == table
    assert [method for method in METHODS if (runs / f"digits-{method}" / "probe.json").exists()] == ["linear"]
    assert not (runs / "digits-knn" / "checkpoints").exists()


def test_datasets_starts_and_what_comes_afterwards(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    accept_any_checksum(monkeypatch)
    for name in ("cifar100", "flowers102"):
        write_copy(name, workplace / "DATA")
    write_hub_dataset(workplace / "beans", "labels", {"train": 4, "validation": 2, "test": 2})
    for split in ("train", "val", "test"):
        for label, name in enumerate(("cat", "dog")):
            for index in range(2):
                write_image(workplace / "PHOTOS" / split / name / f"{index}.jpg", 40 * label)
    save_file(timm.create_model("test_vit", depth=1).state_dict(), workplace / "weights.safetensors")
    for name in CHAINS[1]:
        run_section(name, monkeypatch)
    assert "test/mean_per_class" in (workplace / "runs" / "photos-mhc" / "summary.json").read_text()
    assert (workplace / "predictions.csv").read_text().count("\n") == 1 + 4
    assert (workplace / "photos-mhc-onnx" / "model.onnx").is_file()
    printed = capsys.readouterr().out
    assert re.search(r"^\{'dog': 0\.\d+, 'cat': 0\.\d+\}$", printed, flags=re.MULTILINE)


def _row(name: str, spec: TorchvisionSet) -> list[str]:
    images = {split: f"{official.num_images:,}" for split, official in spec.splits.items()}
    if "all" in images:
        images = {"train": f"{images['all']} undivided"}
    cells = [images.get(split, "") for split in ("train", "val", "test")]
    return [f"`{name}`", *cells, METRICS[spec.metric], COMES[spec.fetch]]


def test_the_table_of_datasets_is_what_the_code_knows() -> None:
    assert table_rows(sections(GUIDE)["Datasets"]) == [_row(name, spec) for name, spec in SETS.items()]


def test_options_in_the_text_exist() -> None:
    classes = {
        "model": (FinetuneModule, ClassificationModule),
        "data": (DownstreamDataModule, ImageFolderDataModule, AugmentedDataModule),
    }
    known = {
        f"--{part}.{name}"
        for part, owners in classes.items()
        for owner in owners
        for name in inspect.signature(owner.__init__).parameters
    }
    mentioned = set(re.findall(r"`(--(?:model|data)\.\w+)[^`]*`", GUIDE))
    assert mentioned
    assert mentioned <= known


def test_the_readme_shows_commands_of_the_guide() -> None:
    def shown(text: str) -> list[list[str]]:
        return [words for language, code in code_blocks(text) if language == "sh" for words in commands(code)]

    ours = shown(sections((ROOT / "README.md").read_text())["Fine-tuning"])
    assert ours
    assert all(words in shown(GUIDE) for words in ours)
