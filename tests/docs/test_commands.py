"""What README and the pages of docs/ show is run: each command and each Python block, in the order of the page.

It is run small: words are put after a command, where they win over its own, small folders stand in for datasets, and
a tiny ViT for published weights, whose names are checked. A command that no rule below makes small fails the test.
"""

import argparse
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
from documents import PAGES, ROOT, blocks, commands, name, option, sections, table_rows
from fake_hub import FakeHub
from packaging.requirements import Requirement
from torch.distributed.run import get_args_parser

import mhc_vision.models.hyperconnect  # noqa: F401 (registers the models before timm is looked into)
from mhc_vision.cli import main
from mhc_vision.comparison.plan.matrix import load_matrix
from mhc_vision.data.downstream.catalog import SETS
from mhc_vision.finetuning.methods import METHODS

CHAINS = (
    ("README.md", "CONTRIBUTING.md"),
    ("docs/index.md", "docs/models.md", "docs/design.md", "docs/command_line.md", "docs/dense.md"),
    ("docs/train.md", "docs/analyze.md", "docs/export.md"),
    ("docs/data.md", "docs/performance.md", "docs/compare.md"),
    ("docs/cluster.md",),
    ("docs/finetune.md",),
    ("docs/results.md",),
)
"""The pages with something to run; those of a chain use what earlier ones have left, as a reader may."""

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "3"),
    *("--trainer.limit_test_batches", "3", "--trainer.log_every_n_steps", "1"),
    *("--model.warmup_steps", "null", "--model.warmup_epochs", "0", *QUIET),
)
SMALL = (*("--data.total_batch_size", "4", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),)
NO_WORKERS = ("--data.num_workers", "0")
ONE_PROCESS = ("--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto")
PROBE = ("--model.probe_epochs", "2", "--model.probe_lrs", "[0.1]", "--model.probe_cs", "[1.0]")
FOUR_BLOCKS = (
    *("--model.name", "test_vit", "--model.weights_file", "four_blocks.safetensors"),
    *("--model.model_args.depth", "4"),
)
TINY = ("--model.weights_file", "weights.safetensors", "--model.model_args.depth", "1")

PARSED = {
    # what runs them small
    "benchmarks/building_masks.py": "tests/benchmarks/test_building_masks.py",
    "benchmarks/cpu_step.py": "tests/benchmarks/test_cpu_step.py",
    "benchmarks/first_gpu_run.py": "tests/benchmarks/test_first_gpu_run.py",
    "benchmarks/image_folders.py": "tests/benchmarks/test_image_folders.py",
    "benchmarks/instruments.py": "tests/benchmarks/test_instruments.py",
    "benchmarks/kernel_resources.py": "tests/kernels/test_kernel_resources.py",
    "benchmarks/kernels.py": "tests/benchmarks/test_gpu_benchmarks.py",
    "benchmarks/launches.py": "tests/benchmarks/test_launches.py",
    "benchmarks/loader.py": "tests/benchmarks/test_loader.py",
    "benchmarks/model_step.py": "tests/benchmarks/test_gpu_benchmarks.py",
    "benchmarks/peers.py": "tests/benchmarks/test_peers.py",
    "benchmarks/pipeline.py": "tests/benchmarks/test_pipeline.py",
    "benchmarks/roofline.py": "tests/benchmarks/test_roofline.py",
    "benchmarks/stability.py": "tests/benchmarks/test_stability.py",
    "benchmarks/traffic.py": "tests/kernels/test_traffic.py",
    "examples/detection.py": "tests/examples/test_examples.py",
    "mhc_vision.analysis.memory_table": "tests/analysis/test_memory_table.py",
    "mhc_vision.analysis.model_table": "tests/analysis/test_model_table.py",
    "mhc_vision.training.consolidate": "tests/training/test_sharded_checkpoints.py",
}
"""Scripts and modules of which only the options are parsed here, and the tests that run them."""


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0])
def test_what_the_pages_show_runs(
    chain: tuple[str, ...], workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran: set[tuple[str, ...]] = set()
    for page in chain:
        scope: dict[str, Any] = {}
        for block in blocks((ROOT / page).read_text(), "sh", "python"):
            if block.language == "python":
                with named(f"{page}:{block.line}"), small_models(monkeypatch):
                    exec(compile(block.code, page, "exec"), scope)
                continue
            for words in commands(block.code):
                if tuple(words) not in ran:
                    with named(f"{page}:{block.line}: {' '.join(words)}"):
                        run(words, monkeypatch)
                ran.add(tuple(words))
    if chain[0] == "docs/finetune.md":
        check_the_guide(workplace, capsys.readouterr())


def check_the_guide(workplace: Path, printed: Any) -> None:
    """What docs/finetune.md says of its runs is so."""
    assert "runs/compare-finetune-digits without records of 57 of 57 runs" in printed.err
    runs = workplace / "runs"
    pretraining = json.loads((runs / "digits" / "summary.json").read_text())
    step_0 = re.search(r"^validation: top1 ([\d.]+) %", printed.out, re.MULTILINE)
    assert step_0 is not None
    # as many digits as are printed
    assert float(step_0[1]) == pytest.approx(100 * pretraining["metrics"]["val/top1"], abs=0.0051)
    summaries = {method: json.loads((runs / f"digits-{method}" / "summary.json").read_text()) for method in METHODS}
    methods = sections((ROOT / "docs" / "finetune.md").read_text())["Try every method in a minute"]
    table = {row[0].strip("`"): row[2] for row in table_rows(methods)}
    assert {method: f"{one['params']['trainable']:,}" for method, one in summaries.items()} == table
    assert [method for method in METHODS if (runs / f"digits-{method}" / "probe.json").exists()] == ["linear"]
    assert not (runs / "digits-knn" / "checkpoints").exists()
    assert "test/mean_per_class" in (runs / "photos-mhc" / "summary.json").read_text()
    assert (workplace / "predictions.csv").read_text().count("\n") == 1 + 4


def test_every_page_with_code_is_in_one_chain() -> None:
    with_code = [name(page) for page in PAGES if blocks(page.read_text(), "sh", "python")]
    assert sorted(with_code) == sorted(page for chain in CHAINS for page in chain)


def test_blocks_are_in_languages_that_something_checks() -> None:
    # text is for trees and formulas; tests/test_extending.py applies diffs
    known = {"sh", "python", "yaml", "diff", "text", "bibtex"}
    other = [f"{name(page)}:{b.line}" for page in PAGES for b in blocks(page.read_text()) if b.language not in known]
    assert other == []


def test_matrices_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for page in PAGES:
        for block in blocks(page.read_text(), "yaml"):
            path = tmp_path / f"{page.stem}{block.line}.yaml"
            path.write_text(block.code)
            assert load_matrix(path, {}).cells, f"{name(page)}:{block.line}"


def test_what_is_only_parsed_is_run_elsewhere() -> None:
    assert all((ROOT / test).is_file() for test in PARSED.values())


@contextmanager
def named(place: str) -> Iterator[None]:
    """Says which command or block of a page it was that failed."""
    try:
        yield
    except (Exception, SystemExit, pytest.fail.Exception) as error:
        raise AssertionError(f"{place}\n{type(error).__name__}: {error}") from error


@contextmanager
def small_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`timm.create_model` makes one block of each model, and checks the name of weights that it would have to fetch."""
    create = timm.create_model

    def create_small(model_name: str, pretrained: bool = False, **options: Any) -> Any:
        if model_name.startswith("local-dir:"):
            return create(model_name, pretrained, **options)
        if pretrained and not options.get("pretrained_cfg_overlay"):
            assert timm.models.is_model_pretrained(model_name), model_name
        options.pop("pretrained_cfg_overlay", None)
        return create(model_name, **{"depth": 1, **options})

    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", create_small)
        yield


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command small."""
    match words:
        case ["mhc-vision", "train", *given]:
            main(["train", *trained(given)])
        case ["python", "train_imagenet.py", *given]:
            run_script(["train_imagenet.py", *trained(given)], monkeypatch)
        case ["torchrun", *given]:
            script = get_args_parser().parse_args(given)
            run_script([script.training_script, *trained(script.training_script_args)], monkeypatch)
        case ["sbatch", script]:
            run(srun_words(script), monkeypatch)
        case ["mhc-vision", "finetune", *given]:
            main(["finetune", *finetuned(given)])
            if "validate" not in given:
                out = "--out" if "--out" in given else "--trainer.default_root_dir"
                assert (Path(option(given, out)) / "report.md").is_file()
        case ["mhc-vision", "compare", *_]:
            # its runs are other tests' matter; the matrix is read, and has to find that there are none yet
            with pytest.raises(SystemExit, match="2"):
                main([*words[1:], "--report-only"])
        case ["mhc-vision", "evaluate" | "predict" | "embed" | "analyze" | "export" as command, model, *given]:
            less = ["--num-workers", "0"] if command in ("evaluate", "predict", "embed") else []
            with fake_hub(monkeypatch):
                main([command, published(model), *given, *less])
        case ["mhc-vision", "profile", model, *given]:
            main(["profile", "test_vit", *given, "--batch-sizes", "1", "--seconds", "0.01"])
            assert timm.is_model(model), model
        case ["mhc-vision", "--help" | "--version" | "list" | "show", *_]:
            main(words[1:])
        case ["python", "-m", module, *_] if module in PARSED:
            assert importlib.util.find_spec(module)
        case ["python", script, *_] if script in PARSED:
            parse_only(words[1:], monkeypatch)
        case ["make", target]:
            subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
        case ["pip", "install", requirement]:
            check_requirement(Requirement(requirement))
        case _:
            pytest.fail("there is no rule to run this command small")


def srun_words(script: str) -> list[str]:
    """The Python command that a job script has `srun` run, with the names of variables in place of their values."""
    subprocess.run(["bash", "-n", script], check=True)
    lines = Path(script).read_text().replace("\\\n", " ").splitlines()
    (command,) = [line.removesuffix("&") for line in lines if line.startswith("srun ")]
    words = shlex.split(re.sub(r"\$\{(\w+):[^}]*\}", r"\1", command))
    return ["python", *words[words.index("train_imagenet.py") :]]


def trained(given: list[str]) -> list[str]:
    """Words of `train` with what makes them short, and small unless it is the digits."""
    names = recipes(given)
    if "digits" in names:
        return [*given, *SHORT]
    if "debug" in names:
        return [*given, *QUIET, "--model.name", "test_vit"]
    small = [*given, *SHORT, *SMALL, *ONE_PROCESS, "--model.name", "test_vit", "--model.model_args.depth", "1"]
    if "--data.train_split" in given:
        small += ["--data.train_split", "train-{0..1}.tar", "--data.val_split", "val-{0..1}.tar"]
    if "--model.compile" in given:
        small += ["--model.compile", "false"]
    if names[0].startswith("cifar10"):
        return [*small, "--data.max_train_images", "10", "--data.max_val_images", "10"]
    return [*small, *NO_WORKERS]


def finetuned(given: list[str]) -> list[str]:
    """Words of `finetune` with what makes them short, and small unless it is the digits."""
    if "validate" in given:
        return [*given, "--trainer.limit_val_batches", "3", *QUIET]
    if "finetune/digits" in recipes(given):
        return [*given, *SHORT, *PROBE]
    if not given[0].startswith("-"):
        return [*given, *SHORT, *SMALL, *NO_WORKERS, *tiny_start(["--model.name", option(given, "--model")])]
    if recipes(given)[0].startswith("segmentation/"):
        small = ("--data.img_size", "64", "--model.decoder_channels", "8", "--data.total_batch_size", "2")
        return [*given, *SHORT, *SMALL, *NO_WORKERS, *FOUR_BLOCKS, *small]
    return [*given, *SHORT, *SMALL, *NO_WORKERS, *tiny_start(given), *copies(given)]


def recipes(given: list[str]) -> list[str]:
    """Names of the recipes and overlays, which may be written as paths in a checkout."""
    named = [value for word, value in pairwise(given) if word == "--config"]
    return [value.removeprefix("configs/").removesuffix(".yaml") for value in named]


def tiny_start(given: list[str]) -> list[str]:
    """What takes the place of published weights, if a command starts from such."""
    start = option(given, "--model.name") if "--model.name" in given else ""
    if start.startswith("runs/"):
        return []
    start = start.removeprefix("hf-hub:timm/")
    if "--model.weights_file" not in given and start:
        assert timm.models.is_model_pretrained(start), start
    connection = re.search(r"_[sdm]hc(?=\.|$)", start)
    return ["--model.name", "test_vit" + (connection[0] if connection else ""), *TINY]


def copies(given: list[str]) -> list[str]:
    """What a recipe's data module needs to read the small copies."""
    recipe = Path(recipes(given)[0]).name
    if recipe == "hfds":
        return ["--data.dataset", "hfds/beans"]
    return ["--data.complete", "false"] if recipe in SETS else []


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hugging Face Hub on this machine."""
    hub = FakeHub()
    with monkeypatch.context() as patch:
        hub.point_client(patch, "hub_cache")
        yield
    hub.close()


def published(model: str) -> str:
    """A directory in place of a published model."""
    if "/" in model:
        return model
    assert timm.models.is_model_pretrained(model), model
    return "published"


def run_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script in this process."""
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(Path(words[0]).resolve().parent))
    # benchmarks with kernels set it, for all tests that follow
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))
    runpy.run_path(words[0], run_name="__main__")


class Parsed(Exception):
    """A script has parsed its options."""


def parse_only(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script until it has parsed its options."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> None:
        parse(parser, *given)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            run_script(words, patch)


def check_requirement(requirement: Requirement) -> None:
    """Such a project and such extras exist."""
    project = (ROOT / "pyproject.toml").read_text()
    own_name = re.search(r'^name = "(.+)"$', project, re.MULTILINE)
    assert own_name is not None
    assert requirement.name in (own_name[1], own_name[1].replace("_", "-"))
    extras = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    assert requirement.extras <= set(re.findall(r"^(\w+) = \[", extras, re.MULTILINE))
