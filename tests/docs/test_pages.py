"""What pages and the heads of configuration files name is there: files, modules, links, commands, options, datasets."""

import importlib.util
import inspect
import re
import runpy
from pathlib import Path

import pytest
from documents import PAGES, ROOT, blocks, commands, name, prose, sections, table_rows

from mhc_vision.cli import COMMANDS
from mhc_vision.data import DownstreamDataModule, ImageFolderDataModule, InMemoryFolderDataModule, TimmDataModule
from mhc_vision.data.augmented import AugmentedDataModule
from mhc_vision.data.downstream.catalog import SETS
from mhc_vision.data.downstream.spec import TorchvisionSet
from mhc_vision.data.segmentation.datamodule import SegmentationDataModule
from mhc_vision.finetuning.module import FinetuneModule
from mhc_vision.finetuning.segmentation import SegmentationModule
from mhc_vision.training import ClassificationModule

TEXTS = [*PAGES, *sorted((ROOT / "configs").rglob("*.yaml"))]
COMES = {"download": "fetched", "unpack": "by hand", None: "by hand"}
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}

_PATH = re.compile(
    r"(?<![\w/.{])(?:configs|docs|benchmarks|tests|examples|mhc_vision)/[\w./-]+\.(?:py|yaml|md|sbatch|png|svg|ipynb)"
)
_MODULE = re.compile(r"python -m (mhc_vision[\w.]*)")
# `blocks[:6](tokens)` is no link
_LINK = re.compile(r"\]\((?!https?:)([\w/-]*\.?[^)#\s]*)(#[^)]+)?\)")
# diffs add files
_NEW_FILE = re.compile(r"^--- /dev/null\n\+\+\+ b/\S+$", re.MULTILINE)
_HEADING = re.compile(r"^##* (.+)$", re.MULTILINE)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_names_is_there(path: Path) -> None:
    text = _NEW_FILE.sub("", path.read_text(encoding="utf-8"))
    missing = [found for found in _PATH.findall(text) if not (ROOT / found).exists()]
    missing += [module for module in _MODULE.findall(text) if importlib.util.find_spec(module) is None]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_repository(page: Path) -> None:
    missing = []
    for target, anchor in _LINK.findall(re.sub(r"`[^`]*`", "", prose(page.read_text()))):
        file = page.parent / target if target else page
        # what the reference adds to its pages, the built site has
        anchored = file.suffix == ".md" and anchor and not anchor.startswith("#mhc_vision.")
        if not file.exists() or (anchored and anchor[1:] not in _anchors(file.read_text())):
            missing.append(target + anchor)
    assert missing == []


def _anchors(text: str) -> set[str]:
    """Those that GitHub makes of headings."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in _HEADING.findall(prose(text)))
    return {title.strip().replace(" ", "-") for title in titles}


def test_extras_of_the_readme() -> None:
    extras = re.search(
        r"^\[project.optional-dependencies\]\n(.+?)^\[", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert extras is not None
    named = [row[0] for row in table_rows(sections((ROOT / "README.md").read_text())["Install"])]
    assert sorted(re.findall(r"`(\w+)`", " ".join(named))) == sorted(
        re.findall(r"^(\w+) = \[", extras[1], re.MULTILINE)
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_in_the_prose_exist(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", prose(page.read_text()))
    named = {words[1] for words in map(str.split, spans) if words[:1] == ["mhc-vision"] and len(words) > 1}
    assert named <= {*COMMANDS, "COMMAND", "--help", "--version"}
    classes = {
        "model": (SegmentationModule, FinetuneModule, ClassificationModule),
        "data": (
            *(DownstreamDataModule, ImageFolderDataModule, InMemoryFolderDataModule, TimmDataModule),
            *(AugmentedDataModule, SegmentationDataModule),
        ),
    }
    known = {
        f"--{part}.{option}"
        for part, owners in classes.items()
        for owner in owners
        for option in inspect.signature(owner.__init__).parameters
    }
    options = {match[0] for span in spans if (match := re.match(r"--(?:model|data)\.[a-z]\w*", span))}
    assert options <= known


@pytest.mark.parametrize("page", ["README.md", "docs/command_line.md"])
def test_every_command_has_its_line(page: str) -> None:
    lines = re.findall(r"^\| `mhc-vision (\w+)` ", (ROOT / page).read_text(), re.MULTILINE)
    assert sorted(lines) == sorted(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    assert not re.findall(r"^ {4,}(?:mhc-vision|python|make|pip|torchrun) .*", prose(page.read_text()), re.MULTILINE)


def _row(dataset: str, spec: TorchvisionSet) -> list[str]:
    images = {split: f"{official.num_images:,}" for split, official in spec.splits.items()}
    if "all" in images:
        images = {"train": f"{images['all']} undivided"}
    cells = [images.get(split, "") for split in ("train", "val", "test")]
    return [f"`{dataset}`", *cells, METRICS[spec.metric], COMES[spec.fetch]]


def test_the_table_of_datasets_is_what_the_code_knows() -> None:
    guide = (ROOT / "docs" / "finetune.md").read_text()
    assert table_rows(sections(guide)["Choose a dataset"]) == [_row(dataset, spec) for dataset, spec in SETS.items()]
    assert f"recipes\nfor {len(SETS)} known datasets" in (ROOT / "docs" / "index.md").read_text()


def test_the_readme_fine_tunes_as_the_guide_does() -> None:
    def shown(page: str) -> list[list[str]]:
        found = [words for block in blocks((ROOT / page).read_text(), "sh") for words in commands(block.code)]
        return [words for words in found if words[:2] == ["mhc-vision", "finetune"]]

    ours = shown("README.md")
    assert ours
    assert all(words in shown("docs/finetune.md") for words in ours)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 9_000


def test_the_picture_is_what_its_script_draws() -> None:
    figures = ROOT / "docs" / "figures"
    drawn = runpy.run_path(str(figures / "streams.py"))["picture"]()
    assert drawn == (figures / "streams.svg").read_text()


def test_the_readme_has_figures_of_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text()
    rows = table_rows_after(sections((ROOT / "README.md").read_text())["Results"])
    assert len(rows) == 5
    for connection, top1, difference, parameters in rows:
        assert re.search(rf"^\| {connection} +\| +{re.escape(top1)} \|.* {parameters} \|", results, re.MULTILINE)
        assert difference in results


def table_rows_after(text: str) -> list[list[str]]:
    """Cells of the rows of a section's one table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_bytes_per_gpu_are_those_of_the_parameters() -> None:
    """docs/cluster.md has 16 bytes per parameter, of as many parameters as docs/models.md."""
    models = sections((ROOT / "docs" / "models.md").read_text())["All registered architectures"]
    parameters = {row[0].strip("`").removesuffix("_*"): row[2] for row in table_rows(models)}
    rows = table_rows(sections((ROOT / "docs" / "cluster.md").read_text())["Models that outgrow a GPU"])
    assert len(rows) == 5
    for model, count, *sizes in rows:
        assert count == parameters[model.strip("`")]
        assert sizes == [f"{16 * int(count.replace(',', '')) / num_gpus / 1e9:.1f}" for num_gpus in (1, 8, 16)]
